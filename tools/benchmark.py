"""Ratios and differences measured in one run, in turns, each in a process of its own.

    python tools/benchmark.py import     seconds that keras_resnet adds to keras
    python tools/benchmark.py load       ResNet-50-D from safetensors against numpy.load
    python tools/benchmark.py input      pictures a second, against decoding alone; with
        --python PY, a Python that has timm, against timm's loader; or with --stages,
        microseconds of CPU a picture that each stage takes
    python tools/benchmark.py checkpoint the demo's training with a checkpoint every 50
        steps, against checkpoints after epochs alone

Times depend on the machine and on its neighbours; what counts is the comparison of the
two sides of one run.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import benchmark_input

_IMPORTS = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_resnet
print(middle - start, time.perf_counter() - middle)
"""


def measure_import(rounds):
    """Seconds of `import keras`, and of `import keras_resnet` after it."""
    keras_seconds, ours = [], []
    for turn in range(rounds + 1):
        first, second = map(float, _python(_IMPORTS).split())
        if turn:  # the first one warms the file cache
            keras_seconds.append(first)
            ours.append(second)
    return {
        "import keras, s": statistics.median(keras_seconds),
        "keras_resnet beyond it, s": statistics.median(ours),
        "worst of it, s": max(ours),
    }


_WRITE = """
import sys, numpy as np
from safetensors.numpy import save_file
from keras_resnet import VARIANTS
from keras_resnet.complexity import variable_shapes
from keras_resnet.weights.translate import to_theirs
config = VARIANTS["resnet50d"]
random = np.random.default_rng(0)
shapes = variable_shapes(config)
ours = {p: random.random(shape, np.float32) + 0.5 for p, shape in shapes.items()}
theirs = to_theirs(ours, config, "timm")
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


def measure_load(rounds):
    """Loading a timm file of ResNet-50-D, against numpy.load and the bare build."""
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
    }


# the seconds of an epoch's steps, without building, tracing and the last writing
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
        self.times.append(time.perf_counter())
recipe = RECIPES["demo"].replace(epochs=12)
train.fit(recipe, records, run, Clock(), checkpoint_steps=steps, checkpoint_seconds=0)
print(Clock.times[-1] - Clock.times[1])  # ten epochs, 220 steps; the first traces
"""


def measure_checkpoint(rounds):
    """Training the demo with a checkpoint every 50 steps, and without such."""
    ratios, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            with_them, without = (
                float(_python(_TRAIN, f"{folder}/digits", f"{folder}/{turn}-{n}", n))
                for n in ("50", "0")
            )
            seconds.append(without)
            ratios.append(with_them / without)
    return {
        "without, s": statistics.median(seconds),
        "every 50 steps / without": statistics.median(ratios),
        "least of it": min(ratios),
        "most of it": max(ratios),
    }


def _python(program, *arguments):
    return subprocess.check_output(
        [sys.executable, "-c", program, *arguments],
        text=True,
        stderr=subprocess.DEVNULL,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["import", "load", "input", "checkpoint"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="input: a Python that has torch and timm")
    parser.add_argument("--stages", action="store_true", help="input: a stage a line")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = functools.partial(benchmark_input.measure, python=arguments.python)
    measure = {
        "import": measure_import,
        "load": measure_load,
        "input": benchmark_input.measure_stages if arguments.stages else rates,
        "checkpoint": measure_checkpoint,
    }[arguments.what]
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        columns = value if isinstance(value, dict) else {"": value}
        cells = [
            f"{number:9.3f} {column}".rstrip() for column, number in columns.items()
        ]
        print(f"{name:31}", *cells)


if __name__ == "__main__":
    main()
