"""One run, killed at random until it ends: is the result that of a run in peace?

    python tools/soak.py [--kills 100] [--seed 0] [--recipe tiny|demo] [--json]

A life lasts until a moment drawn at random: one in five ends while it starts, the rest
within the few steps after the first that bring the run on by one part of it in so many
as there are kills. One in five gets SIGTERM, the others SIGKILL. The run writes a
checkpoint as often as it can. `tiny` is a narrow ResNet-18-D with dropout, drop path,
mixup and a moving average on 32 drawn pictures; `demo` is the recipe of that name on
written digits.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.runs import layout

if TYPE_CHECKING:
    from keras_resnet.recipe import Recipe

PHASES = ("start", "build", "step", "evaluation", "epoch end", "end")
SHARE = 0.2  # of lives that end while they start, and of SIGTERMs
EARLY = 0.8  # of the run is where the kills are meant to end
INTERRUPTED = 75
_WIDTH = 16  # bytes of a mark: the phase; S while a checkpoint is written; steps


def recipe_of(name: str, epochs: int) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and what `train.fit` takes as its data."""
    import numpy as np

    from keras_resnet import demo
    from keras_resnet.recipe import Recipe
    from keras_resnet.recipes import RECIPES

    if name == "demo":
        images, labels, names = demo.digits()
        halves = {"train": slice(demo.HELD_OUT, None), "val": slice(demo.HELD_OUT)}
        data = {half: (images[s], labels[s]) for half, s in halves.items()}
        return RECIPES["demo"], data | {"class_names": names}
    drawn = np.random.default_rng(0)
    data = {
        half: (drawn.integers(0, 256, (size, 36, 36, 3), np.uint8), np.arange(size) % 3)
        for half, size in (("train", 32), ("val", 12))
    }
    recipe = Recipe(
        name="tiny",
        model="resnet18d",
        overrides={
            "width": 8,
            "depths": [1, 1, 1, 1],
            "drop_path": 0.1,
            "dropout": 0.2,
        },
        precision="float32",
        train_size=32,
        test_size=32,
        min_area=0.5,
        colour=0.1,
        batch_size=8,
        epochs=epochs,
        base_rate=0.5,
        warmup_epochs=1.0,
        ema=0.9,
        mixup=0.2,
    )
    return recipe, data


def live(name: str, epochs: int, run: Path, mark: str) -> None:
    """One life: trains on, and leaves a mark of what it is at."""
    handle = os.open(mark, os.O_WRONLY)
    state = {"phase": 0, "saving": False, "steps": 0}

    def at(**changed: int) -> None:
        state.update(changed)
        saving = "S" if state["saving"] else "-"
        said = f"{state['phase']} {saving} {state['steps']}"
        os.pwrite(handle, said.ljust(_WIDTH).encode(), 0)

    at()
    import keras

    from keras_resnet import train
    from keras_resnet.runs import checkpoints

    class Marks(keras.callbacks.Callback):
        def on_train_batch_begin(
            self, batch: int, logs: dict[str, Any] | None = None
        ) -> None:
            at(phase=PHASES.index("step" if state["steps"] else "build"))

        def on_train_batch_end(
            self, batch: int, logs: dict[str, Any] | None = None
        ) -> None:
            at(phase=PHASES.index("step"), steps=state["steps"] + 1)

        def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
            at(phase=PHASES.index("evaluation"))

        def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
            at(phase=PHASES.index("epoch end"))

        def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
            at(phase=PHASES.index("end"))

    real = checkpoints.write

    def write(*args: Any) -> None:
        at(saving=True)
        real(*args)
        at(saving=False)

    checkpoints.write = write  # type: ignore[assignment]
    recipe, data = recipe_of(name, epochs)
    at(phase=PHASES.index("build"))
    try:
        train.fit(recipe, data, run, None, [Marks()], checkpoint_steps=1)
    except train.Interrupted:
        sys.exit(INTERRUPTED)


class Life:
    """A process that trains, and what it is at."""

    def __init__(self, name: str, epochs: int, run: Path, log: Path) -> None:
        self.mark = Path(f"{run}.mark")
        self.mark.write_text(f"0 - 0{' ' * (_WIDTH - 5)}")
        self.began = time.monotonic()
        self.log = log
        with open(log, "w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--live", name, str(epochs), str(run)],
                stdout=stream,
                stderr=stream,
            )

    def at(self) -> tuple[str, bool, int]:
        """(phase, whether a checkpoint is being written, steps)."""
        phase, saving, steps = self.mark.read_text().split()
        return PHASES[int(phase)], saving == "S", int(steps)

    def wait_for_a_step(self) -> float:
        """Seconds from the beginning to the end of the first step, or to the end."""
        while self.process.poll() is None and not self.at()[2]:
            time.sleep(0.005)
        return time.monotonic() - self.began

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not longer than the process lives."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self, number: int) -> tuple[str, bool, int, str]:
        """Sends a signal; (phase, saving, exit status, what it said)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait()
        phase, saving, _ = self.at()
        return phase, saving, code, self.log.read_text()


def in_peace(name: str, epochs: int, run: Path, log: Path) -> tuple[float, float]:
    """Trains without a kill; (seconds to the first step's end, seconds a step)."""
    life = Life(name, epochs, run, log)
    start = life.wait_for_a_step()
    began = time.monotonic()
    if life.process.wait():
        raise SystemExit(f"the run in peace failed:\n{log.read_text()}")
    return start, (time.monotonic() - began) / max(life.at()[2], 1)


def fingerprint(run: Path) -> dict[str, str]:
    """{what: SHA-256} of a finished run: all arrays of its state, models, history."""
    from keras_resnet.opening import open_model
    from keras_resnet.runs import checkpoints

    last, _ = checkpoints.newest(run)
    assert last
    sums = {}
    groups = {"state": sorted(last.arrays.items())}
    for name in (layout.MODEL, layout.AVERAGE):
        if (run / name).exists():
            weights = open_model(run / name).weights
            groups[name] = [(w.path, w.numpy()) for w in weights]
    for group, arrays in groups.items():
        sums[group] = hashlib.sha256()
        for path, array in arrays:
            sums[group].update(f"{path} {array.dtype} {array.shape}".encode())
            sums[group].update(array.tobytes())
    for name in (layout.HISTORY, layout.LOG):
        sums[name] = hashlib.sha256((run / name).read_bytes())
    return {name: each.hexdigest() for name, each in sums.items()}


def soak(
    folder: Path,
    name: str = "tiny",
    kills: int = 100,
    seed: int = 0,
    limit: float = 3600.0,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Runs it in peace and under fire; a dict of what happened.

    Args:
        folder: an empty one, for both runs.
        name: of the recipe, "tiny" or "demo".
        kills: how many.
        seed: of the moments and of the signals.
        limit: seconds after which nothing is killed any more.
        say: gets a line a life.
    """
    began = time.monotonic()
    drawn = random.Random(seed)
    epochs, log = max(3, kills), folder / "log.txt"
    start, pace = in_peace(name, epochs, folder / "peace", log)
    steps = steps_of(name, epochs)
    span = 2 * EARLY * steps * pace / (kills * (1 - SHARE))  # s, twice the mean
    say(f"in peace: {steps} steps, {pace * 1000:.0f} ms each, {start:.1f} s to start")
    run = folder / "fire"
    hit: collections.Counter = collections.Counter()
    exits: collections.Counter = collections.Counter()
    killed, lives, rejected, finished = 0, 0, 0, False
    failed: list[str] = []
    while not finished and not failed:
        life, lives = Life(name, epochs, run, log), lives + 1
        number = signal.SIGTERM if drawn.random() < SHARE else signal.SIGKILL
        early, moment = drawn.random() < SHARE, drawn.random()
        if killed == kills or time.monotonic() - began > limit:
            life.process.wait()
        elif early:
            life.sleep(moment * start)
        else:
            life.wait_for_a_step()
            life.sleep(moment * span)
        alive = life.process.poll() is None
        phase, saving, code, said = life.end(number)
        rejected += said.count("; ignored")
        if code == 0:
            finished = True
        elif alive and code in (-number, INTERRUPTED):
            killed += 1
            hit[f"{phase}, saving" if saving else phase] += 1
            exits[str(code)] += 1
            say(f"{killed}: {signal.Signals(number).name} at {phase}, exit {code}")
        else:
            failed.append(f"life {lives}: exit {code}: {said[-2000:]}")
    result = {
        "recipe": name,
        "seed": seed,
        "kills": killed,
        "lives": lives,
        "survived": killed if finished else killed - 1,
        "hit": dict(hit),
        "exits": dict(exits),
        "rejected": rejected,
        "failed": failed,
        "seconds": round(time.monotonic() - began, 1),
    }
    if finished:
        ours, theirs = fingerprint(run), fingerprint(folder / "peace")
        result |= {"equal": ours == theirs, "hashes": ours, "hashes_in_peace": theirs}
        left = [p.name for p in run.rglob("*") if p.name.startswith(".")]
        result["leftovers"] = sorted(left)
    return {"equal": False, **result}


def steps_of(name: str, epochs: int) -> int:
    """The steps of the run."""
    from keras_resnet import data as pictures

    recipe, data = recipe_of(name, epochs)
    return recipe.epochs * pictures.steps_per_epoch(data, recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--live", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.live:
        name, epochs, run = asked.live
        return live(name, int(epochs), Path(run), f"{run}.mark")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say = (lambda line: print(line, file=sys.stderr)) if asked.json else print
    try:
        result = soak(folder, asked.recipe, asked.kills, asked.seed, asked.limit, say)
    finally:
        shutil.rmtree(folder)
    if asked.json:
        print(json.dumps(result, indent=1))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")
    sys.exit(0 if result["equal"] else 1)


if __name__ == "__main__":
    main()
