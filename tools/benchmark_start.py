"""What opening a data set takes before the first step: of 200,000 pictures, measured.

What `tools/benchmark.py start` runs. Each side is a process of its own, in turns; time
is the processor's, memory the peak beyond what the imports hold, and both are linear in
the number of pictures, so that they are told for ImageNet's as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import turns

PICTURES, CLASSES = 200_000, 1000
IMAGENET = 1_281_167 + 50_000
GOALS = {"folder": 40, "manifest": 15, "shards": 15}  # s of CPU for ImageNet
MEMORY = 512  # MiB, of a folder
CPU, PEAK = "s of CPU", "peak, MiB"
HEAD = bytes.fromhex("ffd8ffe000104a464946") + bytes(100)  # begins as a JPEG does

_OPEN = """
import json, os, sys, time
import tensorflow as tf
from keras_resnet import data
def memory(name):
    line = next(x for x in open("/proc/self/status") if x.startswith(name))
    return int(line.split()[1]) / 1024
tf.constant(0)  # starts the backend
open("/proc/self/clear_refs", "w").write("5")  # the peak, from here on
before, wall, start = memory("VmRSS"), time.perf_counter(), time.process_time()
if sys.argv[1] == "bare scan":
    names = [name for *_, names in os.walk(sys.argv[2]) for name in names]
else:
    source = data.open_source(sys.argv[2])
    source.fingerprint  # a run asks for it
took = {"s of CPU": time.process_time() - start, "s": time.perf_counter() - wall}
print(json.dumps({**took, "peak, MiB": memory("VmHWM") - before}))
"""


def measure(rounds: int) -> dict[str, turns.Rows]:
    """The rows of {"sides"}."""
    answers: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = write_sources(Path(folder))
        for turn in range(rounds + 1):
            for name, place in sides.items():
                command = [sys.executable, "-c", _OPEN, name, str(place)]
                said = subprocess.check_output(command, stderr=subprocess.DEVNULL)
                took = turns.numbers(json.loads(said))
                turns.say(f"round {turn} of {rounds}, {name}: {took}")
                if turn:  # the first round warms the file cache
                    answers.setdefault(name, []).append(json.loads(said))
    return {"sides": [_row(answers, name) for name in answers]}


def _row(answers: turns.Answers, name: str) -> dict[str, Any]:
    seconds = turns.spread(answers, name, CPU)
    peak = turns.spread(answers, name, PEAK)[PEAK]
    row: dict[str, Any] = {
        "side": name,
        **seconds,
        "s": turns.spread(answers, name, "s")["s"],
    }
    row[PEAK] = peak
    scale = IMAGENET / PICTURES
    row |= {"ImageNet, s of CPU": scale * seconds[CPU], "ImageNet, MiB": scale * peak}
    row |= {"goal, s": GOALS[name]} if name in GOALS else {}
    return row | ({"goal, MiB": MEMORY} if name == "folder" else {})


def write_sources(folder: Path) -> dict[str, Path]:
    """{side: what it opens}: of one file, linked so often, and one shard."""
    photos, records = folder / "photos", folder / "records"
    names = [f"n{label:08d}" for label in range(CLASSES)]
    facts = {"mode": "RGB", "height": 375, "width": 500, "exif": None}
    splits = {}
    for split, count in (("train", PICTURES * 96 // 100), ("val", PICTURES * 4 // 100)):
        files = []
        for label, name in enumerate(names):
            place = photos / split / name
            place.mkdir(parents=True)
            first = None
            for number in range(label, count, CLASSES):
                file = place / f"{name}_{number:08d}.JPEG"
                if first:  # of its folder: a file has 65,000 links at most
                    file.hardlink_to(first)
                else:
                    file.write_bytes(HEAD)
                    first = file
                entry = {"file": f"{split}/{name}/{file.name}", "label": label}
                entry |= {"bytes": len(HEAD), "sha256": "0" * 64, "format": "jpeg"}
                files.append(entry | facts)
        splits[split] = {"records": len(files), "bad": [], "files": files}
    manifest = {"validated": True, "class_names": names, "root": str(photos)}
    file = folder / "photos.json"  # as `validate --manifest` writes it
    text = json.dumps({**manifest, "splits": splits})
    file.write_text(text.replace('}, {"file"', '},\n{"file"'))
    _write_records(records, names)
    return {"bare scan": photos, "folder": photos, "manifest": file, "shards": records}


def _write_records(records: Path, names: Sequence[str]) -> None:
    import tensorflow as tf

    from keras_resnet.data.records import encode_example, index_records

    records.mkdir()
    each = 1000  # as `prepare` makes of pictures of 110 KB
    first = records / "first"
    with tf.io.TFRecordWriter(str(first)) as writer:
        for label in range(each):
            writer.write(encode_example(HEAD, label % len(names), names[0]))
    facts = {"records": each, "bytes": first.stat().st_size, "sha256": "0" * 64}
    facts["offsets"] = index_records(first)
    splits = {}
    for split, count in (("train", PICTURES * 96 // 100), ("val", PICTURES * 4 // 100)):
        shards = []
        for number in range(count // each):
            name = f"{split}-{number:05d}-of-{count // each:05d}.tfrecord"
            (records / name).hardlink_to(first)
            shards.append({"file": name, **facts})
        splits[split] = {"records": count, "bad": [], "shards": shards}
    manifest = {"validated": False, "class_names": names, "first_label": 0}
    text = json.dumps({**manifest, "splits": splits}, indent=1)
    (records / "dataset.json").write_text(text)
