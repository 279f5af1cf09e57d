"""Ratios and differences measured in one run, in turns, each in a process of its own.

    python tools/benchmark.py import     seconds that building nets adds to keras, and
        that commands which only read take beyond `python -c pass`
    python tools/benchmark.py load       ResNet-50-D from safetensors against
        numpy.load, and building ResNet-152-D against keras.applications' ResNet-152
    python tools/benchmark.py input      pictures a second, against decoding alone; or
        with --stages, microseconds of CPU a picture that each stage takes
    python tools/benchmark.py start      opening 200,000 pictures: a folder, its
        manifest, and shards, and what that makes for ImageNet's 1.33 million
    python tools/benchmark.py infer      exported nets, against Keras's own export
    python tools/benchmark.py train      training steps, against Keras's normalization
    python tools/benchmark.py onednn     serving and a training step, with oneDNN and
        without it
    python tools/benchmark.py checkpoint the demo's training with a checkpoint every 50
        steps, against checkpoints after epochs alone

Peers are measured where they are installed: the extra `bench` has KerasHub, OpenVINO
and ONNX Runtime; --python PY names a Python that has torch and timm. --only SIDE, as
often as wanted, leaves out the other sides. How long it takes, about, and each answer
are printed to stderr as they come. Times depend on the machine and on its neighbours;
what counts is the comparison of the sides of one run. tools/benchmark_gpu.py is for a
machine with a GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_infer
import benchmark_input
import benchmark_onednn
import benchmark_start
import benchmark_train
import turns

Measure = Callable[[int], dict[str, Any]]  # of so many rounds

_IMPORTS = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
from keras_resnet import create
print(middle - start, time.perf_counter() - middle)
"""
_COMMAND = "import sys; from keras_resnet import cli; sys.argv[0] = ''; cli.main()"
_LIGHT = (["--help"], ["--version"], ["list"], ["recipes"], ["train", "--help"])
_GOAL = 0.6  # s beyond `python -c pass`


def measure_import(rounds: int) -> dict[str, float]:
    """Seconds of `import keras`, of our nets after it, and of commands, in turns."""
    seconds: dict[str, list] = {}
    for turn in range(rounds + 1):
        first, second = map(float, _python(_IMPORTS).split())
        took = {"import keras, s": first, "keras_resnet.create beyond it, s": second}
        empty = _seconds("pass")
        for words in _LIGHT:
            name = f"keras-resnet {' '.join(words)} beyond `pass`, s"
            took[name] = _seconds(_COMMAND, *words) - empty
        turns.say(f"round {turn} of {rounds}: {turns.numbers(took)}")
        for name, value in took.items() if turn else ():  # the first warms caches
            seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {**medians, "goal of the commands, s": _GOAL}


def _seconds(program: str, *arguments: str) -> float:
    start = time.perf_counter()
    _python(program, *arguments)
    return time.perf_counter() - start


_WRITE = """
import sys, numpy as np
from safetensors.numpy import save_file
from keras_resnet import VARIANTS
from keras_resnet.complexity import variable_shapes
from keras_resnet.weights.translate import from_native
config = VARIANTS["resnet50d"]
random = np.random.default_rng(0)
shapes = variable_shapes(config)
ours = {p: random.random(shape, np.float32) + 0.5 for p, shape in shapes.items()}
theirs = from_native(ours, config, "timm")
save_file(theirs, sys.argv[1])
np.savez(sys.argv[2], **theirs)
"""
# peak: what the work adds to the memory of the process that has everything imported
_LOAD = """
import sys, time, numpy as np, keras_resnet
from keras_resnet.weights.readers import read
def memory(name):
    line = next(x for x in open("/proc/self/status") if x.startswith(name))
    return int(line.split()[1]) * 1024
keras_resnet.create("resnet18d", width=8)  # starts the backend
open("/proc/self/clear_refs", "w").write("5")  # the peak, from here on
before, start = memory("VmRSS"), time.perf_counter()
if sys.argv[1] == "numpy":
    with np.load(sys.argv[3]) as arrays:
        kept = dict(arrays)
elif sys.argv[1] == "build":
    kept = keras_resnet.create("resnet50d")
elif sys.argv[1] == "read":
    kept = read(sys.argv[2])
else:
    kept = keras_resnet.create("resnet50d", weights=sys.argv[2])
print(time.perf_counter() - start, memory("VmHWM") - before)
"""


_BUILD = """
import sys, time, keras, keras_resnet
keras_resnet.create("resnet18d", width=8)  # starts the backend
build = {
    "ours": lambda: keras_resnet.create("resnet152d"),
    "theirs": lambda: keras.applications.ResNet152(weights=None),
}[sys.argv[1]]
start = time.perf_counter()
build()
print(time.perf_counter() - start)
"""


def measure_load(rounds: int) -> dict[str, float]:
    """Loading a timm file of ResNet-50-D, against numpy.load and the bare build.

    And building ResNet-152-D, against keras.applications' ResNet-152.
    """
    build: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(rounds + 1):
        for side, them in build.items():
            took = float(_python(_BUILD, side))
            turns.say(f"round {turn} of {rounds}, build {side}: {took:.3g} s")
            if turn:  # the first round warms the file cache
                them.append(took)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("x.safetensors", "x.npz")]
        _python(_WRITE, *files)
        size = Path(files[0]).stat().st_size
        seconds: dict[str, list[float]] = {
            what: [] for what in ("numpy", "build", "read", "load")
        }
        peaks: dict[str, list[float]] = {what: [] for what in seconds}
        for turn in range(rounds + 1):
            for what in seconds:
                first, peak = map(float, _python(_LOAD, what, *files).split())
                turns.say(f"round {turn} of {rounds}, {what}: {first:.3g} s")
                if turn:  # the first round warms the file cache
                    seconds[what].append(first)
                    peaks[what].append(peak)
    ratios = [
        load / (numpy + build)
        for load, numpy, build in zip(
            seconds["load"], seconds["numpy"], seconds["build"]
        )
    ]
    result = {f"{what}, s": statistics.median(them) for what, them in seconds.items()}
    return result | {
        "load / (numpy + build)": statistics.median(ratios),
        "worst of it": max(ratios),
        "peak of read / file": statistics.median(peaks["read"]) / size,
        "peak of load / file": statistics.median(peaks["load"]) / size,
        "peak of build / file": statistics.median(peaks["build"]) / size,
        "resnet152d built, s": statistics.median(build["ours"]),
        "of keras.applications.ResNet152": statistics.median(
            ours / theirs for ours, theirs in zip(*build.values())
        ),
    }


# the seconds of the steps, and of the processor, without building, tracing and the end
_TRAIN = """
import sys, time, keras
from pathlib import Path
from keras_resnet import RECIPES, data, demo, train
records, run, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if not records.exists():
    demo.write_digits(records)
class Clock(keras.callbacks.Callback):
    times = []
    def on_epoch_begin(self, epoch, logs=None):
        self.times.append((time.perf_counter(), time.process_time()))
recipe = RECIPES["demo"].replace(epochs=12)
train.fit(recipe, records, run, Clock(), checkpoint_steps=steps, checkpoint_seconds=0)
# ten epochs, 220 steps; the first traces
print(*(last - first for first, last in zip(Clock.times[1], Clock.times[-1])))
"""


def measure_checkpoint(rounds: int) -> dict[str, turns.Rows]:
    """Training the demo with a checkpoint every 50 steps, and without such."""
    pair = "every 50 steps", "after epochs alone"
    answers: dict[str, list] = {side: [] for side in pair}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            sides = list(zip(pair, ("50", "0")))
            for side, steps in sides[:: 1 - 2 * (turn % 2)]:
                paths = f"{folder}/digits", f"{folder}/{turn}-{steps}"
                said = map(float, _python(_TRAIN, *paths, steps).split())
                answers[side].append(dict(zip(("s", "s of CPU"), said)))
                took = turns.numbers(answers[side][-1])
                turns.say(f"round {turn + 1} of {rounds}, {side}: {took}")
    return {
        "sides": [
            {"side": side, **turns.spread(answers, side, "s")}
            | {"s of CPU": turns.spread(answers, side, "s of CPU")["s of CPU"]}
            for side in answers
        ],
        "ratios": [
            {"of": key, **turns.ratios(answers, *pair, key), "goal": 1.03}
            for key in ("s", "s of CPU")
        ],
    }


def _python(program: str, *arguments: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-c", program, *arguments],
        text=True,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    peers: dict[str, Any] = {
        "input": benchmark_input,
        "infer": benchmark_infer,
        "train": benchmark_train,
    }
    alone: dict[str, Measure] = {
        "import": measure_import,
        "load": measure_load,
        "checkpoint": measure_checkpoint,
        "onednn": benchmark_onednn.measure,
        "start": benchmark_start.measure,
    }
    parser.add_argument("what", choices=[*peers, *alone])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="a Python that has torch and timm")
    parser.add_argument("--stages", action="store_true", help="input: a stage a line")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="SIDE",
        help="input, infer, train: this side, and others so named",
    )
    arguments = parser.parse_args()
    sides = peers[arguments.what].SIDES if arguments.what in peers else {}
    if unknown := [name for name in arguments.only if name not in sides]:
        named = ", ".join(map(repr, sides)) or f"{arguments.what} has no sides"
        parser.error(f"--only {unknown[0]!r}: must be one of {named}")
    if arguments.what == "input" and arguments.stages:
        measure: Measure = benchmark_input.measure_stages
    elif arguments.what in peers:
        measure = functools.partial(
            peers[arguments.what].measure, python=arguments.python, only=arguments.only
        )
    else:
        measure = alone[arguments.what]
    result = {"machine": turns.machine(), **measure(arguments.rounds)}
    print(json.dumps(result) if arguments.json else turns.tables(result))


if __name__ == "__main__":
    main()
