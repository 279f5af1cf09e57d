"""Draws the stems and blocks of the variants a to d -> docs/figures/*.svg.

What is drawn is read from the variants' own configs and plans. The colours are such
that the pictures can be read on white and on black; orange is what differs from a.

    python tools/figures.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_resnet.config import VARIANTS, ResNetConfig
from keras_resnet.plan import BlockPlan, plan_blocks, plan_stem

WIDTH, NARROW, HEIGHT, GAP = 152, 78, 30, 22  # of a box, and between two
SIDE = 224  # of an image, in pixels
LINE, TEXT = "#8790a3", "#7a8294"  # on white and on black alike
CONV, POOL, NEW = "#4a5fc1", "#5d6779", "#c2410c"  # new: other than in variant a

Box = tuple[str, str]  # text and colour


@dataclass
class Drawing:
    """Shapes of a picture, and the places that they reach to."""

    parts: list[str] = field(default_factory=list)
    right: float = 0
    bottom: float = 0

    def box(self, x: float, y: float, box: Box, width: float) -> None:
        """A box with its text, by the middle of its upper side."""
        text, colour = box
        self.parts.append(
            f'<rect x="{x - width / 2:g}" y="{y:g}" width="{width}" height="{HEIGHT}" '
            f'rx="5" fill="{colour}"/>'
            f'<text x="{x:g}" y="{y + HEIGHT / 2 + 4.5:g}" fill="#fff">{text}</text>'
        )
        self._reach(x + width / 2, y + HEIGHT)

    def line(self, *points: tuple[float, float], arrow: bool = True) -> None:
        """A line along points, with an arrow at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(f'<polyline points="{path}"{end}/>')
        for x, y in points:
            self._reach(x, y)

    def label(self, x: float, y: float, text: str, size: int = 13) -> None:
        """Text beside the boxes, by the middle of its base line."""
        weight = ' font-weight="600"' if size > 13 else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{TEXT}" font-size="{size}"{weight}>'
            f"{text}</text>"
        )
        self._reach(x, y + 4)

    def plus(self, x: float, y: float) -> None:
        """The sum of branch and shortcut, by its centre."""
        self.parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="13" fill="{POOL}"/>'
            f'<text x="{x:g}" y="{y + 6:g}" fill="#fff" font-size="18">+</text>'
        )
        self._reach(x, y + 13)

    def _reach(self, x: float, y: float) -> None:
        self.right, self.bottom = max(self.right, x), max(self.bottom, y)

    def svg(self, title: str) -> str:
        """The file's text."""
        width, height = round(self.right + 14), round(self.bottom + 10)
        return "\n".join(
            [
                '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
                f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
                'font-family="system-ui, sans-serif" font-size="12" '
                'text-anchor="middle">',
                f"<title>{title}</title>",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" '
                'markerWidth="7" markerHeight="7" orient="auto">'
                f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>',
                f'<g fill="none" stroke="{LINE}" stroke-width="1.6">',
                *(part for part in self.parts if part.startswith("<poly")),
                "</g>",
                *(part for part in self.parts if not part.startswith("<poly")),
                "</svg>\n",
            ]
        )


def square(side: int, *channels: int) -> str:
    """A side twice, and the channels, with signs of multiplication."""
    return "\u00d7".join(map(str, (side, side, *channels)))


def convolution(kernel: int, channels: int, stride: int) -> str:
    """The text of a convolution's box, as in the paper's figures."""
    strided = f", stride {stride}" if stride > 1 else ""
    return f"{square(kernel)} conv, {channels:,}{strided}"


def stem_boxes(config: ResNetConfig) -> list[Box]:
    """The boxes of a stem, in order."""
    plan = plan_stem(config)
    deep = len(plan.filters) > 1
    boxes = [
        (
            convolution(plan.kernel_size, filters, 1 if index else 2),
            NEW if deep else CONV,
        )
        for index, filters in enumerate(plan.filters)
    ]
    assert plan.pool == "max"
    return [*boxes, (f"{square(3)} max pool, stride 2", POOL)]


def branch_boxes(config: ResNetConfig, plan: BlockPlan) -> list[Box]:
    """The three convolutions of a bottleneck."""
    first = plan.stride if config.stride_on_first else 1
    middle = plan.stride // first
    return [
        (convolution(1, plan.filters, first), CONV),
        # what variant b moved
        (convolution(3, plan.filters, middle), NEW if middle > 1 else CONV),
        (convolution(1, plan.outputs, 1), CONV),
    ]


def shortcut_boxes(config: ResNetConfig, plan: BlockPlan) -> list[Box]:
    """The boxes of a shortcut that strides."""
    if config.shortcut == "avg_pool":
        pool = (f"{square(plan.stride)} avg pool, stride {plan.stride}", NEW)
        return [pool, (convolution(1, plan.outputs, 1), CONV)]
    assert config.shortcut == "projection"
    return [(convolution(1, plan.outputs, plan.stride), CONV)]


def draw_stem(drawing: Drawing, x: float, y: float, config: ResNetConfig) -> None:
    """A stem from its input down."""
    drawing.label(x, y + 10, f"image, {square(SIDE, 3)}")
    y += 16
    for box in stem_boxes(config):
        drawing.line((x, y), (x, y + GAP))
        drawing.box(x, y + GAP, box, WIDTH)
        y += GAP + HEIGHT
    drawing.line((x, y), (x, y + GAP))
    side = SIDE // 4
    drawing.label(x, y + GAP + 15, square(side, plan_stem(config).filters[-1]))


def draw_block(
    drawing: Drawing,
    x: float,
    y: float,
    letters: str,
    plan: BlockPlan,
    branch: Sequence[Box],
    shortcut: Sequence[Box],
) -> None:
    """A block from its input down: the branch on the left, the shortcut on the right.

    `x` is where the block begins; a side with one word alone is narrow.
    """
    widths = [NARROW if len(it[0][0]) < 10 else WIDTH for it in (branch, shortcut)]
    left, right = x + widths[0] / 2, x + widths[0] + 16 + widths[1] / 2
    middle = (left + right) / 2
    drawing.label(middle, y, letters, 15)
    y += 16
    fork = y + 32
    drawing.label(middle, y + 10, square(SIDE // 4, plan.inputs))
    drawing.line((middle, y + 16), (middle, fork), arrow=False)
    tall = max(map(_height, (branch, shortcut)))
    total = fork + 2 * GAP + tall + 13  # where the sum is
    for place, width, boxes in zip((left, right), widths, (branch, shortcut)):
        top = fork + GAP + (tall - _height(boxes)) / 2
        points = [(middle, fork), (place, fork)]
        for box in boxes:
            drawing.line(*points, (place, top))
            drawing.box(place, top, box, width)
            points, top = [(place, top + HEIGHT)], top + HEIGHT + GAP
        end = [(left, total - 13)] if place == left else [(right, total)]
        drawing.line(*points, *end, *([] if place == left else [(left + 13, total)]))
    drawing.plus(left, total)
    drawing.line((left, total + 13), (left, total + 13 + GAP))
    side = SIDE // 4 // plan.stride
    drawing.label(left, total + GAP + 28, square(side, plan.outputs))


def _height(boxes: Sequence[Box]) -> float:
    return len(boxes) * (HEIGHT + GAP) - GAP


def stem() -> str:
    """The stem of a and b beside that of c and d."""
    drawing = Drawing()
    for x, letters, config in _columns(WIDTH + 60, ("a, b", "b"), ("c, d", "d")):
        drawing.label(x + WIDTH / 2, 18, letters, 15)
        draw_stem(drawing, x + WIDTH / 2, 34, config)
    return drawing.svg("The stem of the variants a and b, and that of c and d")


def bottleneck() -> str:
    """Where the block that halves the sides has its stride, in a and in the others."""
    drawing = Drawing()
    for x, letters, config in _columns(310, ("a", "a"), ("b, c, d", "b")):
        plan = _strided_block(config)
        branch = branch_boxes(config, plan)
        draw_block(drawing, x, 18, letters, plan, branch, [("shortcut", POOL)])
    return drawing.svg("The bottleneck of variant a, and that of b, c and d")


def shortcut() -> str:
    """The shortcut of the block that halves the sides, in d and in the others."""
    drawing = Drawing()
    for x, letters, config in _columns(310, ("a, b, c", "b"), ("d", "d")):
        plan = _strided_block(config)
        boxes = shortcut_boxes(config, plan)
        draw_block(drawing, x, 18, letters, plan, [("branch", POOL)], boxes)
    return drawing.svg("The shortcut of the variants a, b and c, and that of d")


def _columns(
    width: float, *columns: tuple[str, str]
) -> Iterator[tuple[float, str, ResNetConfig]]:
    """(left side, letters, config) of each column."""
    for index, (letters, letter) in enumerate(columns):
        yield 14 + index * width, letters, VARIANTS[f"resnet50{letter}"]


def _strided_block(config: ResNetConfig) -> BlockPlan:
    """The first block of stage 2, which halves the sides."""
    return next(plan for plan in plan_blocks(config) if plan.stride > 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="docs/figures", type=Path)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = {"stem": stem(), "bottleneck": bottleneck(), "shortcut": shortcut()}
    for name, picture in pictures.items():
        (options.output / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
