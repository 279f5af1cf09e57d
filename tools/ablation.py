"""The tricks one after the other on 20 digits a class -> docs/reference/ablation.md.

The order of arXiv 1812.01187's tables 4 and 5 on resnet18 of width 16, and of its table
6 on that and on narrow nets of keras.applications: trained on 20 of scikit-learn's
digits a class, tested on the 1,597 others, at seeds that each draw their own. Runs are
kept in runs/ablation/, and the same command goes on; a net that is not named keeps the
results that it has.

    python tools/ablation.py --nets resnet18 --seeds 5
    python tools/ablation.py --nets mobilenet inception_v3 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trials
import turns

from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES

PER_CLASS = 20
SMALL, LARGE = 16, 64  # pictures a batch, as 256 and 1024 of ImageNet
MIXED = 200 / 120  # epochs of a run with mixup over those of one without
TEACHERS = {"cosine": "teacher", "mixup": "teacher with mixup"}
WIDTH = {"width": 16}
# what differs from resnet18d at 32 pixels
NETS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenet": {"preprocessing": "tf", "train_size": 75, "test_size": 75},
    "inception_v3": {"preprocessing": "tf", "train_size": 75, "test_size": 75},
}
TITLES = {
    "resnet18": "ResNet-18 of width 16",
    "mobilenet": "MobileNet of a quarter of its width",
    "inception_v3": "Inception-V3 of a quarter of its width",
}
FIRST = "efficient"  # row of a net that has no architecture to tweak


def rows(net: str, epochs: int) -> dict[str, Recipe]:
    """{row: recipe} of a net, and its teachers' own."""
    baseline = RECIPES["baseline"].replace(
        model="resnet18b",
        overrides={**WIDTH, "zero_gamma": False},
        train_size=32,
        min_area=0.7,
        max_aspect=1.15,
        flip=0.0,
        colour=0.0,
        lighting=0.0,
        test_size=32,
        crop_pct=1.0,
        batch_size=SMALL,
        epochs=epochs,
        base_rate=0.8,
        boundaries=[round(epochs * share) for share in (1 / 4, 1 / 2, 3 / 4)],
        validate_every=epochs,
    )
    scaled = baseline.replace(batch_size=LARGE)
    warm = scaled.replace(warmup_epochs=epochs / 24)
    zero = warm.replace(overrides=WIDTH)
    bare = zero.replace(decay="kernels")
    half = bare.replace(precision="mixed_bfloat16")
    tweaked = half.replace(model="resnet18d")
    found = {
        "baseline": baseline,
        "+ linear scaling": scaled,
        "+ warm-up": warm,
        "+ zero gamma": zero,
        "+ no bias decay": bare,
        "+ half precision": half,
        "+ ResNet-D": tweaked,
    }
    if net != "resnet18":  # in float32, which is faster where bfloat16 is emulated
        tweaked = bare.replace(
            model=f"tools/narrow.py:{net}", overrides={}, **NETS[net]
        )
        found = {FIRST: tweaked}
    cosine = tweaked.replace(schedule="cosine", boundaries=[])
    smooth = cosine.replace(label_smoothing=0.1, smoothing="other-classes")
    longer = round(epochs * MIXED)
    mixed = smooth.replace(
        mixup=0.2, epochs=longer, validate_every=longer, warmup_epochs=longer / 40
    )
    distilled = {"temperature": 20.0, "distillation": "paper"}
    taught = {"model": "resnet34d", "overrides": WIDTH, "preprocessing": ""}
    return {
        "teacher": smooth.replace(**taught),
        "teacher with mixup": mixed.replace(**taught),
        **found,
        "+ cosine": cosine,
        "+ label smoothing": smooth,
        "+ distillation, without mixup": smooth.replace(teacher="teacher", **distilled),
        "+ mixup, without distillation": mixed,
        "+ distillation and mixup": mixed.replace(
            teacher="teacher with mixup", **distilled
        ),
    }


def digits(seed: int) -> dict[str, Any]:
    """20 digits a class that a seed draws, and all others to test on."""
    from keras_resnet import demo

    images, labels, names = demo.digits()
    drawn = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.concatenate(
        [drawn[labels[drawn] == number][:PER_CLASS] for number in range(10)]
    )
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    return {
        "train": (images[chosen], labels[chosen]),
        "val": (images[others], labels[others]),
        "class_names": names,
    }


def measure(net: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains the rows of a net: what results.json says of it."""
    started = time.monotonic()
    recipes = rows(net, options.epochs)

    def trial(row: str, seed: int) -> trials.Trial:
        recipe = recipes[row].replace(seed=seed)
        if recipe.teacher:
            teacher = folder(options.runs, net, recipe.teacher, seed)
            recipe = recipe.replace(teacher=str(teacher))
        return trials.Trial(recipe, digits, folder(options.runs, net, row, seed))

    measured: dict[str, dict[int, trials.Measured]] = {}
    names = list(recipes)
    for some in (names[:2], names[2:]):  # the teachers first
        jobs = {
            (row, seed): trial(row, seed)
            for seed in range(options.seeds)
            for row in some
        }
        measured |= trials.measure(jobs, options.workers)
    command = f"tools/ablation.py --nets {net} --seeds {options.seeds}"
    return {
        "how": {
            "command": f"python {command} --epochs {options.epochs}",
            **turns.machine(),
            "minutes": round((time.monotonic() - started) / 60),
        },
        "rows": {
            row: {
                "recipe": recipes[row].to_dict(),
                "top1": [measured[row][seed].top1 for seed in range(options.seeds)],
                "loss": [measured[row][seed].loss for seed in range(options.seeds)],
            }
            for row in names
        },
    }


def folder(runs: str, net: str, row: str, seed: int) -> Path:
    """The run directory of a row and a seed; nets of one size share the teachers."""
    size = NETS[net].get("train_size", 32)
    parent = f"{size}-pixels" if row in TEACHERS.values() else net
    name = row.replace("+ ", "").replace(",", "").replace(" ", "-")
    return Path(runs, parent, name, str(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60, help="of runs without mixup")
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--runs", default="runs/ablation")
    parser.add_argument("--output", default="docs", type=Path)
    options = parser.parse_args()
    page_file = options.output / "reference" / "ablation.md"
    page_file.parent.mkdir(parents=True, exist_ok=True)
    kept = options.output / "ablation.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for net in options.nets:
        results[net] = measure(net, options)
        kept.write_text(json.dumps(results, indent=1))
    page = "\n".join(
        [
            *INTRODUCTION,
            *(
                line
                for net in NETS
                if net in results
                for line in section(net, results[net])
            ),
        ]
    )
    page_file.write_text(page)
    plot(results, options.output / "ablation.png")
    print(page)


INTRODUCTION = f"""\
# The tricks, one after the other

The rows of arXiv 1812.01187's tables 4, 5 and 6 on written digits: {PER_CLASS}
training pictures a class, tested on the other {1797 - 10 * PER_CLASS:,}. Each row has
what stands above it, but of the last three each has the rows up to label smoothing.

Top-1 is in percent: mean and standard deviation of the seeds, each of which draws its
own training pictures. The difference to the row before (of the last three: to label
smoothing) is of the same seeds, with its standard error. Half precision is
mixed_bfloat16, since processors have no fast float16; the nets of table 6 are trained
in float32. [Every run's numbers](../ablation.json).

![top-1 of each row and seed](../ablation.png)
""".split("\n")


def percent(result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{row: top-1 of each seed} of a net, the teachers included."""
    return {row: 100 * np.array(it["top1"]) for row, it in result["rows"].items()}


def section(net: str, result: Mapping[str, Any]) -> list[str]:
    """The table of a net as Markdown."""
    tops, how = percent(result), result["how"]
    lines = [
        f"## {TITLES[net]}",
        "",
        "| | batch | epochs | top-1 | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    before = None
    for row, values in tops.items():
        if row in TEACHERS.values():
            continue
        recipe = result["rows"][row]["recipe"]
        change = ""
        if before is not None:
            gained = values - tops[before]
            error = gained.std(ddof=1) / len(gained) ** 0.5 if len(gained) > 1 else 0
            change = f"{gained.mean():+.2f} ± {error:.2f}"
        spread = values.std(ddof=1) if len(values) > 1 else 0
        lines.append(
            f"| {row} | {recipe['batch_size']} | {recipe['epochs']} | "
            f"{values.mean():.2f} ± {spread:.2f} | {change} |"
        )
        before = before if before == "+ label smoothing" else row
    without, with_mixup = (tops[name].mean() for name in TEACHERS.values())
    size = result["rows"]["teacher"]["recipe"]["train_size"]
    return [
        *lines,
        "",
        f"The teachers are ResNet-34-D of width 16 at {size} pixels on the same "
        "pictures:",
        f"{without:.2f} without mixup, {with_mixup:.2f} with it.",
        "",
        f"`{how['command']}`",
        f"(commit {how['commit']}, {how['processor']}, {how['minutes']} minutes)",
        "",
    ]


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Every run a dot, every row its mean; a panel a net."""
    from matplotlib.figure import Figure

    nets = [net for net in NETS if net in results]
    shown = {
        net: {
            row: values
            for row, values in percent(results[net]).items()
            if row not in TEACHERS.values()
        }
        for net in nets
    }
    lengths = [len(shown[net]) for net in nets]
    figure = Figure(figsize=(9, 1 + 0.4 * sum(lengths)), layout="constrained")
    panels = figure.subplots(len(nets), height_ratios=lengths, squeeze=False)[:, 0]
    for axes, net in zip(panels, nets, strict=True):
        for place, values in enumerate(shown[net].values()):
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
            axes.plot(values.mean(), place, "|", color="black", markersize=18)
        axes.set_yticks(range(len(shown[net])), list(shown[net]))
        axes.invert_yaxis()
        axes.set_title(TITLES[net], loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
    panels[-1].set(xlabel=f"top-1 in percent, {PER_CLASS} training pictures a class")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
