"""Ratios and differences measured in one run, in turns, each in a process of its own.

    python tools/benchmark.py import     seconds that keras_resnet adds to keras

Times depend on the machine and on its neighbours; what counts is the comparison of the
two sides of one run.
"""

import argparse
import json
import statistics
import subprocess
import sys

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
        output = subprocess.check_output(
            [sys.executable, "-c", _IMPORTS], text=True, stderr=subprocess.DEVNULL
        )
        if turn:  # the first one warms the file cache
            first, second = map(float, output.split())
            keras_seconds.append(first)
            ours.append(second)
    return {
        "import keras, s": statistics.median(keras_seconds),
        "keras_resnet beyond it, s": statistics.median(ours),
        "worst of it, s": max(ours),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["import"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure_import(arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:28} {value:8.3f}")


if __name__ == "__main__":
    main()
