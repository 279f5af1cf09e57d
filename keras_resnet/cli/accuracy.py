"""The picture of `list --plot`: the accuracy of released weights against their cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS
from keras_resnet.drawing import png
from keras_resnet.errors import ModelError
from keras_resnet.files import write_whole
from keras_resnet.weights.released import Released

_FAMILIES = (
    "ResNet",
    "ResNet-D and -T",
    "ResNeXt",
    "with attention (SE, ECA)",
    "anti-aliased",
    "ResNet-RS",
)


def draw(tags: Sequence[Released], path: Path) -> None:
    """Writes a PNG of top-1 against multiply-adds and parameters, both logarithmic.

    A point is a released tag at its test size, hollow where the licence does not allow
    commercial use. The line joins the tags that no cheaper one equals.
    """
    if not tags:
        raise ModelError("--plot: none of these variants has released weights")
    costs = {
        "multiply-adds at the test size, 1e9": [
            complexity(VARIANTS[tag.variant], tag.test_size)[1] / 1e9 for tag in tags
        ],
        "parameters, 1e6": [complexity(VARIANTS[tag.variant])[0] / 1e6 for tag in tags],
    }
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, 2), costs.items()):
        axes.set(xlabel=label, ylabel="top-1, %")
        _scatter(axes, values, tags)
    figure.suptitle(
        "Released weights: published top-1 on ImageNet (hollow: not for commercial use)"
    )
    write_whole(path, png(figure))


def _scatter(axes: Any, costs: Sequence[float], tags: Sequence[Released]) -> None:
    """Points of tags, in the colours of their families, and the line of the best."""
    for number, family in enumerate(_FAMILIES):
        points = [it for it in zip(costs, tags) if _family(it[1]) == family]
        if not points:
            continue
        colour = f"C{number}"
        axes.scatter(
            *zip(*((cost, _top1(tag)) for cost, tag in points)),
            s=22,
            edgecolors=colour,
            facecolors=[colour if tag.commercial else "none" for _, tag in points],
            label=family,
        )
    front = _front(costs, tags)
    axes.plot(*zip(*((x, _top1(tag)) for x, tag in front)), color="0.6", lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    height: float | None = None  # of the label above, which the next one must not cover
    for x, tag in reversed(front):
        if height is None or height - _top1(tag) > 0.45:
            axes.annotate(
                tag.variant,
                *((x, _top1(tag)), (-5, 4)),
                textcoords="offset points",
                ha="right",
                fontsize=7,
            )
            height = _top1(tag)


def _family(tag: Released) -> str:
    """The one of _FAMILIES that a tag's variant belongs to."""
    config = VARIANTS[tag.variant]
    belongs = (
        True,
        config.shortcut == "avg_pool",
        config.groups > 1,
        config.attention is not None,
        config.anti_alias is not None,
        config.stem_pool == "conv",
    )
    return [family for family, it in zip(_FAMILIES, belongs) if it][-1]


def _top1(tag: Released) -> float:
    return tag.top1 or 0.0  # `_tags` leaves out those that have none


def _front(
    costs: Sequence[float], tags: Sequence[Released]
) -> list[tuple[float, Released]]:
    """The tags that are better than every cheaper one, in order of cost."""
    front: list[tuple[float, Released]] = []
    best = 0.0
    for cost, tag in sorted(
        zip(costs, tags), key=lambda pair: (pair[0], -_top1(pair[1]))
    ):
        if _top1(tag) > best:
            front.append((cost, tag))
            best = _top1(tag)
    return front
