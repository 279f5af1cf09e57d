"""Reads hostile files in a process with limits on its memory and time.

As a program, it takes requests as lines of JSON and answers each with one. It loads
the readers alone: their package's own __init__ would import Keras, which takes longer
than a hundred hostile files.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEMORY = 2**30  # bytes of address space
PER_FUZZ = 2.0  # s of processor time that a mutated file may take


@dataclass(frozen=True)
class Answer:
    """What came of reading a file."""

    outcome: str  # "read", "refused" (with a WeightsError) or "escaped" (anything else)
    said: str  # the names that were read, or the exception
    grown: int  # bytes of memory that reading took at its peak


def attempt(paths):
    """Reads each file in one fresh process: {path: Answer}."""
    answers = _process([{"path": str(path)} for path in paths], timeout=120)
    return {path: Answer(**answer) for path, answer in zip(paths, answers)}


def fuzz(path, count, seed=0):
    """Reads `count` mutations of a file: how many came out as what, and the escaped."""
    request = {"path": str(path), "count": count, "seed": seed}
    return _process([request], timeout=60 + PER_FUZZ * count)[0]


def _process(requests, timeout):
    done = subprocess.run(
        [sys.executable, __file__],
        input="\n".join(map(json.dumps, requests)),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each has a stack
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(requests[0]["path"]).parent,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (requests[len(answers)], done.stderr[-2000:])
    return answers


def mutate(data, generator):
    """Some bytes of `data` changed, taken away, added or repeated."""
    data = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4, 8])):
        at, size = generator.randrange(len(data)), generator.choice([1, 2, 4, 8])
        kind = generator.randrange(10)
        if kind < 4:
            data[at] = generator.randrange(256)
        elif kind < 6:
            data[at] ^= 1 << generator.randrange(8)
        elif kind < 8:
            size = min(size, len(data) - at)
            data[at : at + size] = generator.choice([b"\xff", b"\0", b"\x7f"]) * size
        elif kind == 8:
            del data[at : at + size]
        else:
            data[at:at] = generator.randbytes(size)
        data = data or bytearray(1)
    return bytes(data)


def mutate_member(source, target, generator):
    """A zip with one of its members mutated, so that all checksums are right."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        chosen = generator.choice([info for info in old.infolist() if info.file_size])
        for info in old.infolist():
            data = old.read(info)
            data = mutate(data, generator) if info is chosen else data
            new.writestr(info.filename, data)


def _readers():
    sys.dont_write_bytecode = True
    for package in ("keras_resnet", "keras_resnet/weights"):
        module = types.ModuleType(package.replace("/", "."))
        module.__path__ = [str(ROOT / package)]
        sys.modules[module.__name__] = module
    sys.path.insert(0, str(ROOT))
    from keras_resnet.errors import WeightsError
    from keras_resnet.weights.readers import read

    assert not {"keras", "tensorflow"} & set(sys.modules)
    return read, WeightsError


def _peak(reset=False):
    """Most bytes resident since the last reset. (ru_maxrss would be the parent's.)"""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _attempt(path, read, refusal):
    before = _peak(reset=True)
    try:
        outcome, said = "read", " ".join(read(path))
    except refusal as error:
        outcome, said = "refused", str(error)
    except BaseException as error:
        outcome, said = "escaped", f"{type(error).__name__}: {error}"
    return {"outcome": outcome, "said": said, "grown": _peak() - before}


def _fuzz(path, read, refusal, count, seed):
    tally = {"read": 0, "refused": 0, "escaped": [], "grown": 0}
    data, target = Path(path).read_bytes(), f"{path}.mutated"
    for index in range(count):
        generator = random.Random(f"{seed} {index}")
        if data.startswith(b"PK") and index % 2:
            mutate_member(path, target, generator)
        else:
            Path(target).write_bytes(mutate(data, generator))
        start = time.process_time()
        answer = _attempt(target, read, refusal)
        tally["grown"] = max(tally["grown"], answer["grown"])
        slow = time.process_time() - start > PER_FUZZ
        if slow or answer["outcome"] == "escaped":
            tally["escaped"].append([index, answer["said"][:200], slow])
        else:
            tally[answer["outcome"]] += 1
    return tally


def main():
    requests = [json.loads(line) for line in sys.stdin]
    read, refusal = _readers()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for request in requests:
        act = _fuzz if "count" in request else _attempt
        sys.stdout.write(json.dumps(act(read=read, refusal=refusal, **request)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
