"""Files are whole or not there, however many processes write one at a time."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from keras_resnet.weights.files import PARTIAL, aside, unique

# without Keras, whose import takes longer than all the writing
WRITER = """
import os, sys
import numpy as np
import sandbox
sandbox._readers()
from keras_resnet.weights.files import unique, write
from pathlib import Path
path, own = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(40):
    write(path, {"x": np.full(1000 * (1 + own), own)})
    with np.load(path) as arrays:
        (value,) = set(arrays["x"])
        assert len(arrays["x"]) == 1000 * (1 + value)
unique(path).write_bytes(b"half")
os._exit(0)
"""


def test_processes_that_write_one_file_at_a_time_all_do(tmp_path):
    path = tmp_path / "it.npz"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(number)],
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for number in range(6)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()[-2000:]
    with np.load(path) as arrays:
        assert len(arrays["x"]) % 1000 == 0
    # each was killed while it began another: their leftovers go with the next write
    assert len(list(tmp_path.glob(f"{PARTIAL}*"))) == 6
    with aside(tmp_path / "other.npz") as partial:
        partial.touch()
    assert len(list(tmp_path.glob(f"{PARTIAL}*"))) == 6
    with aside(path) as partial:
        partial.write_bytes(b"new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["it.npz", "other.npz"]


def test_threads_that_write_one_file_do_not_touch_each_others(tmp_path):
    path, meeting = tmp_path / "it.bin", threading.Barrier(4)
    written = []

    def write(number):
        with aside(path) as partial:
            partial.write_bytes(bytes([number]) * 100)
            meeting.wait()  # all are at it
        written.append(number)

    threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [0, 1, 2, 3]
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_former_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "it.bin"
    path.write_bytes(b"old")
    running = unique(path)  # of a process that lives
    running.write_bytes(b"half")

    def interrupted():
        with aside(path) as partial:
            partial.write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([path, running])
