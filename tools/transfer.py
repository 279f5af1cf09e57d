"""Backbones trained without and with the tricks, at two tasks -> docs/transfer.*

Section 6 of arXiv 1812.01187 in small: narrow nets are trained to classify written
digits, and then find digits in pictures (RetinaNet) and segment them (DeepLabV3+). The
pictures are composed of scikit-learn's digits and photographs of scikit-image and
scikit-learn, so that boxes and masks are exact. The measures are of digits and
photographs that no training has seen. Runs are kept in runs/transfer/, and the same
command goes on.

    python tools/transfer.py [--seeds 3] [--workers 2]

It needs scikit-image, and takes its pictures without the network.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ablation
import numpy as np
import turns

from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES

SPLITS = ("train", "val")
HELD_OUT = 360  # digits, of 1,797
PHOTOGRAPHS = {  # of skimage.data, but for china and flower
    "train": (
        "astronaut",
        "brick",
        "camera",
        "chelsea",
        "coffee",
        "coins",
        "flower",
        "grass",
        "hubble_deep_field",
        "immunohistochemistry",
    ),
    "val": ("china", "gravel", "motorcycle", "rocket"),
}
SIDE = 128  # of a picture with boxes and masks
CLASSIFIED = 48  # side of a picture of one digit
SIZES = (28, 56)  # the 8 x 8 pixels of a digit, enlarged; 48 at most where one is shown
MOST = 4  # digits a picture
EMPTY = 0.05  # of the pictures
COUNTS = {"train": 400, "val": 120}  # pictures
COPIES = 2  # of each digit that is to be classified, each elsewhere
EPOCHS = 24  # of pretraining without mixup
# of the baseline, when the rate falls; a run this short has hardly begun at a quarter,
# where the paper's 120 epochs have the first fall
STEPS = (1 / 2, 3 / 4, 7 / 8)
ROWS = {"baseline": "baseline", "tricks": "+ mixup, without distillation"}
TITLES = {"baseline": "ResNet-18, baseline", "tricks": "ResNet-18-D, all tricks"}
TASKS: dict[str, dict[str, Any]] = {  # what differs from RECIPES["transfer"]
    # RetinaNet's heads, of 256 channels, take most of the time: half precision is more
    # than twice as fast where the processor has it
    "detect": {"precision": "mixed_bfloat16", "epochs": 24},
    "segment": {"precision": "float32", "epochs": 8},
}
RATE = 1e-3  # of AdamW at a batch of BATCH pictures
BATCH = 16
MEASURES = {  # and the task that each is of
    "top1": ("top-1", "classify"),
    "map": ("mAP", "detect"),
    "map50": ("mAP at IoU 0.5", "detect"),
    "mean_iou": ("mean IoU", "segment"),
    "pixel_accuracy": ("pixel accuracy", "segment"),
}
SHOWN = 4  # test pictures, with the predictions of the first seed
CONFIDENT = 0.5  # the least confidence of a box that is shown


@dataclass
class Scene:
    """A picture with digits, none of which covers another."""

    image: np.ndarray  # uint8 [SIDE, SIDE, 3]
    mask: np.ndarray  # uint8 [SIDE, SIDE]: 0, or a digit + 1
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)  # l, t, r, b
    labels: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)  # indices of scikit-learn's digits


def held_out() -> dict[str, np.ndarray]:
    """{split: indices of scikit-learn's digits}, the same for every seed."""
    order = np.random.default_rng(0).permutation(len(_shapes()[1]))
    return {"train": order[HELD_OUT:], "val": order[:HELD_OUT]}


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from keras_resnet import demo

    return demo.digits()


@functools.cache
def photographs(split: str) -> list[np.ndarray]:
    """The photographs of a split, uint8 [H, W, 3] each."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = []
    for name in PHOTOGRAPHS[split]:
        if name in ("china", "flower"):
            photo = load_sample_image(f"{name}.jpg")
        elif name == "motorcycle":
            photo = data.stereo_motorcycle()[0]
        else:
            photo = getattr(data, name)()
        if photo.ndim == 2:
            photo = np.repeat(photo[..., None], 3, axis=2)
        found.append(photo)
    return found


def crop(split: str, side: int, draw: np.random.Generator) -> np.ndarray:
    """A square of one of the photographs, uint8 [side, side, 3]."""
    photos = photographs(split)
    photo = photos[draw.integers(len(photos))]
    top, left = (int(draw.integers(length - side + 1)) for length in photo.shape[:2])
    return photo[top : top + side, left : left + side].copy()


def ink(index: int, size: int) -> np.ndarray:
    """How much of each pixel a digit covers, float32 [h, w], without empty margins."""
    from PIL import Image

    shape = Image.fromarray(_shapes()[0][index][..., 0])
    resized = shape.resize((size, size), Image.Resampling.BICUBIC)
    cover = np.asarray(resized, np.float32) / 255
    rows, columns = (np.flatnonzero(cover.any(axis)) for axis in (1, 0))
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(under: np.ndarray, cover: np.ndarray, draw: np.random.Generator) -> None:
    """Paints a digit in a light color on dark pixels, or in a dark one on light."""
    is_dark = under.mean() < 128
    color = draw.uniform(*((145, 255) if is_dark else (0, 110)), size=3)
    under[:] = np.round(under * (1 - cover[..., None]) + color * cover[..., None])


def scenes(split: str) -> list[Scene]:
    """The pictures of both tasks, the same for every seed."""
    draw = np.random.default_rng(SPLITS.index(split))
    return [_scene(split, draw) for _ in range(COUNTS[split])]


def _scene(split: str, draw: np.random.Generator) -> Scene:
    scene = Scene(crop(split, SIDE, draw), np.zeros((SIDE, SIDE), np.uint8))
    taken = np.zeros((SIDE, SIDE), bool)
    for _ in range(0 if draw.random() < EMPTY else draw.integers(1, MOST + 1)):
        index = int(draw.choice(held_out()[split]))
        cover = ink(index, int(draw.integers(SIZES[0], SIZES[1] + 1)))
        height, width = cover.shape
        for _ in range(100):  # places; a digit without one is left out
            top = int(draw.integers(SIDE - height + 1))
            left = int(draw.integers(SIDE - width + 1))
            place = np.s_[top : top + height, left : left + width]
            if not taken[place].any():
                break
        else:
            continue
        taken[place] = True
        paint(scene.image[place], cover, draw)
        label, is_digit = int(_shapes()[1][index]), cover > 0.5
        scene.mask[place][is_digit] = label + 1
        rows, columns = (np.flatnonzero(is_digit.any(axis)) for axis in (1, 0))
        scene.boxes.append(
            (
                left + int(columns[0]),
                top + int(rows[0]),
                left + int(columns[-1]) + 1,
                top + int(rows[-1]) + 1,
            )
        )
        scene.labels.append(label)
        scene.sources.append(index)
    return scene


def digits(seed: int, side: int = CLASSIFIED) -> dict[str, Any]:
    """One digit a picture, to be classified; the seed draws the training pictures."""
    smallest = SIZES[0] * side // CLASSIFIED
    _, labels, names = _shapes()
    found: dict[str, Any] = {"class_names": names}
    for split, indices in held_out().items():
        draw = np.random.default_rng((seed, 2) if split == "train" else 2)
        indices = np.repeat(indices, COPIES)
        images = np.stack([crop(split, side, draw) for _ in indices])
        for image, index in zip(images, indices, strict=True):
            size = int(draw.integers(smallest, side + 1))
            height, width = (cover := ink(index, size)).shape
            top = int(draw.integers(side - height + 1))
            left = int(draw.integers(side - width + 1))
            paint(image[top : top + height, left : left + width], cover, draw)
        found[split] = images, labels[indices]
    return found


def compose(root: Path) -> dict[str, Any]:
    """Writes root/detect in COCO's form, and root/segment as pictures and masks.

    Returns:
        {split: what the pictures contain}.
    """
    for task in TASKS:  # a picture more than there should be would be of another set
        shutil.rmtree(root / task, ignore_errors=True)
    found = {}
    for split in SPLITS:
        made = scenes(split)
        _write_boxes(root / "detect", split, made)
        _write_masks(root / "segment", split, made)
        found[split] = statistics(made)
    names = ["background", *map(str, _shapes()[2])]
    (root / "segment" / "classes.txt").write_text("".join(f"{it}\n" for it in names))
    return found


def _write_boxes(root: Path, split: str, made: Sequence[Scene]) -> None:
    from PIL import Image

    (root / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(made):
        name = f"{number:04d}.png"
        Image.fromarray(scene.image).save(root / split / name)
        size = {"width": SIDE, "height": SIDE}
        images.append({"id": number + 1, "file_name": name, **size})
        for box, label in zip(scene.boxes, scene.labels, strict=True):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(np.count_nonzero(scene.mask[top:bottom, left:right])),
                    "iscrowd": 0,
                }
            )
    names = map(str, _shapes()[2])
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(names)]
    (root / f"{split}.json").write_text(
        json.dumps(
            {"images": images, "annotations": annotations, "categories": categories}
        )
    )


def _write_masks(root: Path, split: str, made: Sequence[Scene]) -> None:
    from PIL import Image

    for kind in ("images", "masks"):
        (root / split / kind).mkdir(parents=True)
    for number, scene in enumerate(made):
        name = f"{number:04d}.png"
        Image.fromarray(scene.image).save(root / split / "images" / name)
        Image.fromarray(scene.mask).save(root / split / "masks" / name)


def statistics(made: Sequence[Scene]) -> dict[str, Any]:
    """How many pictures, digits of each class and pixels there are, and the sizes."""
    boxes = np.array([box for scene in made for box in scene.boxes])
    labels = [label for scene in made for label in scene.labels]
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return {
        "pictures": len(made),
        "empty": sum(not scene.boxes for scene in made),
        "digits": len(labels),
        "different_digits": len({it for scene in made for it in scene.sources}),
        "of_each_class": np.bincount(labels, minlength=10).tolist(),
        "side_of_boxes": [
            round(float(np.quantile(sides, part)), 1) for part in (0, 0.5, 1)
        ],
        "digit_pixels": round(float(np.mean([s.mask > 0 for s in made])), 4),
    }


def pretraining(epochs: int = EPOCHS) -> dict[str, Recipe]:
    """{backbone: recipe}: the first row of tools/ablation.py, and that of all tricks.

    The tricks are those of the paper's section 5 but distillation; as there, mixup
    takes 200 / 120 of the epochs. Both are in float32.
    """
    rows = ablation.rows("resnet18", epochs)
    sizes = {"train_size": CLASSIFIED, "test_size": CLASSIFIED}
    found = {
        name: rows[row].replace(name=name, precision="float32", **sizes)
        for name, row in ROWS.items()
    }
    falls = [round(epochs * share) for share in STEPS]
    found["baseline"] = found["baseline"].replace(boundaries=falls)
    return found


def transferred(task: str, backbone: str, weights: Path) -> Recipe:
    """The recipe of a task, the same for all backbones, but for the net."""
    first = pretraining()[backbone]
    return RECIPES["transfer"].replace(
        name=f"{backbone}-{task}",
        task=task,
        model=first.model,
        overrides=first.overrides,
        weights=str(weights),
        train_size=SIDE,
        scale_jitter=(0.8, 1.25),
        flip=0.0,  # a mirrored digit is none
        test_size=SIDE,
        batch_size=BATCH,
        base_rate=RATE * 256 / BATCH,
        validate_every=TASKS[task]["epochs"],
        **TASKS[task],
    )


def measure(
    backbone: str, seed: int, keep: Path, tasks: Sequence[str]
) -> dict[str, float]:
    """Pretrains a backbone, trains it for each task, and measures all of them.

    The predictions that `plot` shows are written next to the runs of the first seed.
    """
    _one_core()
    from keras_resnet import evaluate, train

    home = keep / backbone / str(seed)
    began = time.monotonic()

    def tell(what: str) -> None:
        seconds = time.monotonic() - began
        print(f"{seconds:6.0f} s  {backbone}, seed {seed}: {what}", flush=True)

    recipe = pretraining()[backbone].replace(seed=seed)
    source = digits(seed)
    model = train.fit(recipe, source, home / "classify")
    found = {"top1": evaluate.run(model, source)["top1"]}
    tell(f"top-1 {found['top1']:.2%}")
    for task in tasks:
        recipe = transferred(task, backbone, home / "classify").replace(seed=seed)
        model = train.fit(recipe, keep / task, home / task)
        result = evaluate.run(model, keep / task)
        found |= {name: result[name] for name, it in MEASURES.items() if it[1] == task}
        tell(", ".join(f"{name} {found[name]:.2%}" for name in found if name in result))
        if seed == 0:
            _write_predictions(model, task, home / f"{task}.npz")
    return found


def _one_core() -> None:
    import keras
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()


def shown() -> list[Scene]:
    """The first test pictures with at least two digits."""
    return [scene for scene in scenes("val") if len(scene.labels) > 1][:SHOWN]


def _write_predictions(model: Any, task: str, path: Path) -> None:
    images = np.stack([scene.image for scene in shown()]).astype(np.float32)
    answer = model.predict(images, verbose=0)
    if task == "segment":
        np.savez(path, mask=answer.argmax(-1).astype(np.uint8))
    else:
        names = ("boxes", "labels", "confidence")
        np.savez(path, **{name: answer[name] for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="none: pretrain"
    )
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--keep", default="runs/transfer", type=Path, help="for runs")
    parser.add_argument("--out", default="docs", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    contents = compose(options.keep)
    for split, values in contents.items():
        print(f"{split}: {json.dumps(values)}", flush=True)
    measured: dict[tuple[str, int], dict[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool:
        jobs = {
            (name, seed): pool.submit(measure, name, seed, options.keep, options.tasks)
            for seed in range(options.seeds)
            for name in options.backbones
        }
        for key, job in jobs.items():
            measured[key] = job.result()
    results = {
        "how": {
            "command": shlex.join(["python", "tools/transfer.py", *sys.argv[1:]]),
            **turns.machine(),
            "seeds": list(range(options.seeds)),
            "minutes": round((time.monotonic() - began) / 60),
        },
        "pictures": contents,
        "photographs": PHOTOGRAPHS,
        "backbones": {
            name: {
                "recipes": recipes(name, options.tasks),
                **{
                    key: [measured[name, seed][key] for seed in range(options.seeds)]
                    for key in measured[name, 0]
                },
            }
            for name in options.backbones
        },
    }
    (options.out / "transfer.json").write_text(json.dumps(results, indent=1))
    plot(results, options.keep, options.out / "transfer.png")
    print("\n".join(table(results)))


def recipes(backbone: str, tasks: Sequence[str]) -> dict[str, Any]:
    """{task: recipe} of a backbone as JSON can hold it, of the first seed."""
    weights = Path("classify")
    return {
        "classify": pretraining()[backbone].to_dict(),
        **{task: transferred(task, backbone, weights).to_dict() for task in tasks},
    }


def _measured(results: Mapping[str, Any]) -> list[str]:
    first = next(iter(results["backbones"].values()))
    return [name for name in MEASURES if name in first]


def table(results: Mapping[str, Any]) -> list[str]:
    """The table of the tutorial, as Markdown: mean and deviation, in percent."""
    names = _measured(results)
    titles = " | ".join(MEASURES[name][0] for name in names)
    lines = [f"| backbone | epochs | {titles} |", f"|---|{'---:|' * (len(names) + 1)}"]
    for backbone, it in results["backbones"].items():
        cells = []
        for name in names:
            percent = 100 * np.array(it[name])
            spread = f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else ""
            cells.append(f"{percent.mean():.1f}{spread}")
        epochs = it["recipes"]["classify"]["epochs"]
        lines.append(f"| {TITLES[backbone]} | {epochs} | {' | '.join(cells)} |")
    return lines


def plot(results: Mapping[str, Any], keep: Path, path: Path) -> None:
    """Test pictures with the truth and each backbone's answers, and all measures."""
    from matplotlib.figure import Figure

    backbones = list(results["backbones"])
    figure = Figure(figsize=(6 + 2 * (1 + len(backbones)), 2 * SHOWN + 0.6))
    parts: Any = figure.subfigures(1, 2, width_ratios=(1 + len(backbones), 3))
    left, right = parts
    panels = left.subplots(
        SHOWN, 1 + len(backbones), squeeze=False, gridspec_kw={"wspace": 0.03}
    )
    left.subplots_adjust(0.01, 0.01, 0.99, 0.94, hspace=0.03)
    for axes, title in zip(panels[0], ["truth", *map(TITLES.get, backbones)]):
        axes.set_title(title, fontsize="medium")
    for row, (axes, scene) in enumerate(zip(panels, shown(), strict=True)):
        draw_scene(axes[0], scene)
        for panel, backbone in zip(axes[1:], backbones, strict=True):
            draw_scene(panel, _answer(scene.image, keep / backbone / "0", row))
    _bars(right.subplots(), results)
    right.subplots_adjust(0.12, 0.08, 0.97, 0.94)
    figure.savefig(path, dpi=110)


def _answer(image: np.ndarray, home: Path, row: int) -> Scene:
    """What a backbone's detector and segmenter say of a picture, without the unsure."""
    scene = Scene(image, np.zeros((SIDE, SIDE), np.uint8))
    if (home / "segment.npz").exists():
        scene.mask = np.load(home / "segment.npz")["mask"][row]
    if (home / "detect.npz").exists():
        with np.load(home / "detect.npz") as saved:
            is_sure = saved["confidence"][row] >= CONFIDENT
            scene.labels = saved["labels"][row][is_sure].tolist()
            scene.boxes = saved["boxes"][row][is_sure].tolist()
    return scene


def draw_scene(axes: Any, scene: Scene) -> None:
    """A picture with its mask and boxes, each digit in a color of its own."""
    import matplotlib
    from matplotlib.patches import Rectangle

    colors = matplotlib.colormaps["tab10"](range(10))[:, :3]
    shade = np.zeros((SIDE, SIDE, 4))
    for digit, color in enumerate(colors):
        shade[scene.mask == digit + 1] = (*color, 0.7)
    axes.imshow(scene.image, extent=(0, SIDE, SIDE, 0))
    axes.imshow(shade, extent=(0, SIDE, SIDE, 0), interpolation="nearest")
    for (left, top, right, bottom), label in zip(
        scene.boxes, scene.labels, strict=True
    ):
        size, color = (right - left, bottom - top), colors[label]
        axes.add_patch(
            Rectangle((left, top), *size, fill=False, edgecolor=color, linewidth=1.5)
        )
        axes.text(
            left,
            top,
            str(label),
            color="white",
            backgroundcolor=color,
            fontsize=7,
            va="bottom" if top > 12 else "top",
            bbox={"facecolor": color, "pad": 1, "linewidth": 0},
        )
    axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[])


def _bars(axes: Any, results: Mapping[str, Any]) -> None:
    """The mean of each measure, its standard deviation, and each seed as a dot."""
    names, backbones = _measured(results), results["backbones"]
    width = 0.8 / len(backbones)
    for number, (backbone, it) in enumerate(backbones.items()):
        places = np.arange(len(names)) + (number - (len(backbones) - 1) / 2) * width
        values = [100 * np.array(it[name]) for name in names]
        axes.bar(
            places,
            [value.mean() for value in values],
            0.9 * width,
            yerr=[value.std(ddof=1) if len(value) > 1 else 0 for value in values],
            capsize=4,
            label=TITLES[backbone],
        )
        for place, value in zip(places, values, strict=True):
            axes.plot([place] * len(value), value, ".", color="black", alpha=0.5)
    axes.set_xticks(range(len(names)), [MEASURES[name][0] for name in names])
    axes.set(ylabel="percent", ylim=(0, 100))
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right")


if __name__ == "__main__":
    main()
