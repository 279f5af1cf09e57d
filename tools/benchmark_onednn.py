"""Pictures a second of a resnet50d in float32, with oneDNN and without it.

What `tools/benchmark.py onednn` runs: an exported net in TensorFlow's C++ loader, as
`keras-resnet serve` runs it, and a training step, in turns.

    python benchmark_onednn.py write FOLDER    the net that is served
    python benchmark_onednn.py SIDE FOLDER     a side, as turns.answer has it
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import benchmark_infer
import benchmark_input
import benchmark_train
import turns

RATE = "pictures/s"
SWITCH = {"with oneDNN": "1", "without": "0"}


def measure(rounds: int) -> dict[str, turns.Rows]:
    """The rows of {"sides", "ratios"}."""
    os.environ.update(benchmark_input.QUIET)  # the sides inherit it
    sides, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        turns.run([sys.executable, __file__, "write", folder])
        for work in WORK:
            first, second = pair = [f"{work}, {switch}" for switch in SWITCH]
            answers = turns.take(__file__, pair, [folder], rounds)
            sides += [{"side": n, **turns.spread(answers, n, RATE)} for n in pair]
            ratio = turns.ratios(answers, first, second, RATE)
            ratios.append({"work": work, **ratio})
            print(f"{work}: {ratio['ratio']:.2f} x with oneDNN", file=sys.stderr)
    return {"sides": sides, "ratios": ratios}


def write(folder: Path) -> None:
    """The export; of random weights, which are as fast as any."""
    import keras_resnet
    from keras_resnet import export
    from keras_resnet.export import signatures

    model = keras_resnet.create(benchmark_infer.MODEL)
    signatures.write_saved_model(export.fold_batch_norm(model), folder / "ours")


def served(batch: int, folder: Path) -> turns.Round:
    import numpy as np

    shape = (batch, benchmark_infer.SIZE, benchmark_infer.SIZE, 3)
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    answer = benchmark_infer.saved_model("ours", folder)
    answer(images)
    return lambda: {RATE: batch * benchmark_infer.rate(answer, images)}


def step(folder: Path) -> turns.Round:
    work = benchmark_train.ours(folder, "float32")
    return lambda: benchmark_train.round_of(work, benchmark_train.STEPS, 1)


WORK: dict[str, Callable] = {
    "served, batch 16": partial(served, 16),
    "served, batch 1": partial(served, 1),
    "training step, 16 at 160": step,
}


def main() -> None:
    """Writes the net, or is a side."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "write":
        return write(folder)
    work, _, switch = name.rpartition(", ")
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = SWITCH[switch]
    if work.startswith("served"):
        os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "1"
    turns.answer(lambda: WORK[work](folder))


if __name__ == "__main__":
    main()
