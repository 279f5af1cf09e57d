"""What single fields of a recipe do on written digits -> docs/fields.json and a table.

Unequal classes: 100 digits of one class and fewer of each next, down to 4, drawn anew
by each seed. Growing images: 140 digits of each class. Tested on all others. Each run
is one process on one core.

    python tools/fields.py --seeds 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trials
import turns

from keras_resnet.recipes import RECIPES

LARGEST, SMALLEST = 100, 4  # training images of a class


def unequal(seed: int) -> dict[str, Any]:
    """Digits of which each class has fewer for training than the one before."""
    return _divided(
        seed, np.geomspace(LARGEST, SMALLEST, 10).round().astype(int).tolist()
    )


def equal(seed: int) -> dict[str, Any]:
    """140 digits of each class for training."""
    return _divided(seed, [140] * 10)


def _divided(seed: int, counts: Sequence[int]) -> dict[str, Any]:
    """So many digits of each class for training, drawn by a seed, and all others."""
    from keras_resnet import demo

    images, labels, names = demo.digits()
    drawn = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.concatenate(
        [drawn[labels[drawn] == it][:count] for it, count in enumerate(counts)]
    )
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    return {
        "train": (images[chosen], labels[chosen]),
        "val": (images[others], labels[others]),
        "class_names": names,
    }


DEMO = RECIPES["demo"].replace(validate_every=25)
FEW = DEMO.replace(batch_size=32)
ROWS = {
    "unequal classes": (FEW, unequal),
    "class_weights: balanced": (FEW.replace(class_weights="balanced"), unequal),
    "sampling: balanced": (FEW.replace(sampling="balanced"), unequal),
    "train_size: 32": (DEMO, equal),
    "progressive_sizes: [16, 24]": (
        DEMO.replace(progressive_sizes=[16, 24]),
        equal,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--runs", default="runs/fields", type=Path)
    parser.add_argument("--output", default="docs/fields.json", type=Path)
    options = parser.parse_args()
    jobs = {
        (row, seed): trials.Trial(
            recipe.replace(seed=seed),
            data,
            options.runs / row.replace(": ", "-").replace(" ", "-") / str(seed),
        )
        for row, (recipe, data) in ROWS.items()
        for seed in range(options.seeds)
    }
    measured = trials.measure(jobs, options.workers)
    rows = {
        row: {
            name: [getattr(measured[row][seed], name) for seed in range(options.seeds)]
            for name in ("top1", "seconds")
        }
        for row in ROWS
    }
    how = {"command": f"python tools/fields.py --seeds {options.seeds}"}
    results = {"how": {**how, **turns.machine()}, "rows": rows}
    options.output.write_text(json.dumps(results, indent=1))
    print(table(rows))


def table(rows: dict[str, Any]) -> str:
    """A table in Markdown: mean and standard deviation over the seeds."""
    lines = ["| recipe | top-1 | seconds |", "|---|---:|---:|"]
    for row, found in rows.items():
        top1, seconds = 100 * np.array(found["top1"]), np.array(found["seconds"])
        lines.append(
            f"| `{row}` | {top1.mean():.2f} ± {top1.std(ddof=1):.2f} | "
            f"{seconds.mean():.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
