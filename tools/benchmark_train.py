"""Pictures a second of training steps of a resnet50d, beside Keras's way and the peers.

What `tools/benchmark.py train` runs: steps on one batch that lies in memory, each side
through what its users call, with SGD of momentum 0.9 and a decay of 1e-4; and ours once
more with the real pictures of tools/benchmark_input.py. Sides in bfloat16 run where the
processor multiplies it, or if --only names them: elsewhere a step takes half a minute.

    python benchmark_train.py SIDE FOLDER    a side, as turns.answer has it
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchmark_infer
import benchmark_input
import turns

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_resnet.recipe import Recipe

MODEL, SIZE, BATCH, CLASSES = "resnet50d", 160, 16, 1000
STEPS = 6  # of a side's turn
FED_STEPS = 48  # of the side with its input: it starts the pipeline in every turn
AHEAD = 20  # batches of the input alone for a step
RATE, PEAK = "pictures/s", "peak, GB"
OURS, REMAT, FED = "ours {}", "ours {}, remat", "ours {}, with its input"
INPUT = "input alone"
Work = Callable[[int], Any]  # takes so many steps
GOALS = [  # of both precisions: side, against, goals by precision, what is compared
    (OURS, "Keras's normalization {}", {"bfloat16": 1.8, "float32": 1.2}, RATE),
    (OURS, "KerasHub {}", {"bfloat16": 1.8, "float32": 1.2}, RATE),
    (OURS, "timm {}", {"bfloat16": 1.0, "float32": 1.0}, RATE),
    (OURS, "timm {}", {"bfloat16": 1.2, "float32": 1.2}, PEAK),
    (REMAT, "timm {}", {"bfloat16": 1.2, "float32": 1.2}, PEAK),
    # backward is twice forward, which runs once more
    (REMAT, OURS, {"bfloat16": 0.75, "float32": 0.75}, RATE),
]


def measure(
    rounds: int, python: str | None = None, only: Sequence[str] = ()
) -> dict[str, turns.Rows]:
    """The rows of {"sides", "ratios"}; of a peak less is better."""
    os.environ.update(benchmark_input.QUIET)  # the sides inherit it
    is_half_fast = "bf16" in turns.machine()["processor"]
    names = [it for it in SIDES if is_half_fast or "bfloat16" not in it or it in only]
    with tempfile.TemporaryDirectory() as folder:
        benchmark_input.write_pictures(Path(folder))
        answers = turns.take(__file__, names, [folder], rounds, python, only, 12)
    sides = [
        {"side": name, **turns.spread(answers, name, RATE)}
        | {PEAK: max(answer.get(PEAK, 0.0) for answer in answers[name])}
        for name in answers
    ]
    ratios = [
        {"side": name.format(precision), "against": base.format(precision)}
        | {"of": key, **turns.ratios(answers, *pair, key), "goal": goals[precision]}
        for precision in ("bfloat16", "float32")
        for name, base, goals, key in GOALS
        for pair in [(name.format(precision), base.format(precision))]
        if all(side in answers for side in pair)
    ]
    for precision in ("bfloat16", "float32"):
        name, step = FED.format(precision), OURS.format(precision)
        if {name, step, INPUT} <= answers.keys():
            slower = [
                {RATE: min(one[RATE], other[RATE])}
                for one, other in zip(answers[step], answers[INPUT])
            ]
            together = {"both": answers[name], "slower": slower}
            ratios.append(
                {
                    "side": name,
                    "of": RATE,
                    "against": f"the slower of {INPUT} and {step}",
                }
                | {**turns.ratios(together, "both", "slower", RATE), "goal": 0.95}
            )
    return {"sides": sides, "ratios": ratios}


def _recipe(precision: str = "bfloat16", remat: str = "", **overrides: Any) -> Recipe:
    from keras_resnet import RECIPES

    return RECIPES["efficient"].replace(
        model=MODEL,
        overrides=overrides,
        precision=precision if precision == "float32" else f"mixed_{precision}",
        batch_size=BATCH,
        train_size=SIZE,
        remat=remat,
    )


def _one_batch() -> tf.data.Dataset:
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, BATCH)]
    # or an iterator's end would wait for the thread that tunes it, for seconds
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensors((images, labels))
    return batches.repeat().with_options(options)


def _fit(model: Any, batches: tf.data.Dataset) -> Work:
    return lambda count: model.fit(batches, steps_per_epoch=count, verbose=0)


def ours(
    folder: Path, precision: str = "bfloat16", pictures: bool = False, **overrides: Any
) -> Work:
    from keras_resnet import data
    from keras_resnet.train.build import build

    recipe = _recipe(precision, **overrides)
    if pictures:
        source = data.open_source(folder / "photos")
        model = build(recipe, source.class_names, 100).model
        return _fit(model, data.train_batches(source, recipe))
    model = build(recipe, [str(number) for number in range(CLASSES)], 100).model
    return _fit(model, _one_batch())


def keras_hub(folder: Path, precision: str) -> Work:
    import keras

    model = benchmark_infer.keras_hub(precision)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
        keras.losses.CategoricalCrossentropy(),
        metrics=["accuracy"],
        jit_compile=False,  # by XLA it loses oneDNN's convolutions
    )
    return _fit(model, _one_batch())


def timm(folder: Path, precision: str) -> Work:
    import timm
    import torch

    model = timm.create_model(MODEL, num_classes=CLASSES)
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH)
    half = precision == "bfloat16"

    def work(count: int) -> None:
        for _ in range(count):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        float(loss)

    return work


def input_alone(folder: Path) -> Work:
    from keras_resnet import data

    batches = data.train_batches(folder / "photos", _recipe())

    def work(count: int) -> None:
        for _ in batches.take(AHEAD * count):
            pass

    return work


SIDES: dict[str, Callable] = {INPUT: input_alone}
for _precision in ("bfloat16", "float32"):
    SIDES |= {
        OURS.format(_precision): partial(ours, precision=_precision),
        REMAT.format(_precision): partial(ours, precision=_precision, remat="stages"),
        FED.format(_precision): partial(ours, precision=_precision, pictures=True),
        f"Keras's normalization {_precision}": partial(
            ours, precision=_precision, fused_batch_norm=False
        ),
        f"KerasHub {_precision}": partial(keras_hub, precision=_precision),
        f"timm {_precision}": partial(timm, precision=_precision),
    }


def main() -> None:
    """A side, as turns.answer has it."""

    def start() -> turns.Round:
        name = sys.argv[1]
        work = SIDES[name](Path(sys.argv[2]))
        steps = FED_STEPS if name.endswith("with its input") else STEPS
        return lambda: round_of(work, steps, AHEAD if name == INPUT else 1)

    turns.answer(start)


def round_of(work: Work, steps: int, batches: int) -> dict[str, float]:
    work(2)  # what its own turn does not warm up, another's has thrown out
    start = time.perf_counter()
    work(steps)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {RATE: steps * BATCH * batches / seconds, PEAK: peak}


if __name__ == "__main__":
    main()
