"""Runs the program that reads TensorFlow checkpoints on mutations of one.

As a program: PREFIX COUNT. TensorFlow takes seconds to start, so that one process reads
all of them, each as the program does. Prints a tally as JSON.
"""

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path

import sandbox

PROGRAM = sandbox.ROOT / "keras_resnet/weights/readers/tf_checkpoint_process.py"


def main(prefix, count):
    specification = importlib.util.spec_from_file_location("program", PROGRAM)
    program = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    parts = [Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")]
    tally = {"read": 0, "refused": 0}
    for index in range(int(count)):
        generator = random.Random(index)
        for part in parts:
            shutil.copy(part, part.with_name(f"mutated{part.suffix}"))
        part = generator.choice(parts)
        mutated = part.with_name(f"mutated{part.suffix}")
        mutated.write_bytes(sandbox.mutate(part.read_bytes(), generator))
        try:
            program.main(mutated.with_suffix(""), mutated.with_name("out.npz"))
            tally["read"] += 1
        except Exception:
            tally["refused"] += 1
    sys.stdout.write(json.dumps(tally))


if __name__ == "__main__":
    main(*sys.argv[1:])
