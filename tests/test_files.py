"""Files are whole or not there, whoever writes, and whatever the file system lacks."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from keras_resnet import files
from keras_resnet.files import PARTIAL, atomic_write, unique
from keras_resnet.runs import checkpoints, process

# without Keras, whose import takes longer than all the writing
WRITER = """
import os, sys
import numpy as np
import sandbox
sandbox._readers()
from keras_resnet.files import unique
from keras_resnet.weights.files import write
from pathlib import Path
path, own = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(40):
    write(path, {"x": np.full(1000 * (1 + own), own)})
    with np.load(path) as arrays:
        (value,) = set(arrays["x"])
        assert len(arrays["x"]) == 1000 * (1 + value)
unique(path.with_name("left.npz")).write_bytes(b"half")
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
        _, errors = writer.communicate(timeout=600)
        assert writer.returncode == 0, errors.decode()[-2000:]
    with np.load(path) as arrays:
        assert len(arrays["x"]) % 1000 == 0
    # each ended while it wrote another file, whose next writer clears up
    assert len(list(tmp_path.glob(f"{PARTIAL}*"))) == 6
    with atomic_write(tmp_path / "other.npz") as partial:
        partial.touch()
    assert len(list(tmp_path.glob(f"{PARTIAL}*"))) == 6
    with atomic_write(tmp_path / "left.npz") as partial:
        partial.write_bytes(b"new")
    names = ["it.npz", "left.npz", "other.npz"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_threads_that_write_one_file_do_not_touch_each_others(tmp_path):
    path, meeting = tmp_path / "it.bin", threading.Barrier(4)
    written = []

    def write(number):
        with atomic_write(path) as partial:
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
        with atomic_write(path) as partial:
            partial.write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([path, running])


REFUSALS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def refusing(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def lines(capsys):
    """The lines printed to stderr since the last look, each of which comes once."""
    files._print_once.cache_clear()
    yield lambda: capsys.readouterr().err.splitlines()
    files._print_once.cache_clear()


@pytest.mark.parametrize("number", REFUSALS)
def test_file_system_without_flushes_costs_a_line(number, tmp_path, monkeypatch, lines):
    monkeypatch.setattr(os, "fsync", refusing(number))
    for _ in range(2):
        with atomic_write(tmp_path / "file") as partial:
            partial.write_text("all of it")
        checkpoints.write(tmp_path, checkpoints.Place(1), {}, {})
    assert (tmp_path / "file").read_text() == "all of it"
    assert checkpoints.newest(tmp_path)[0].place == checkpoints.Place(1)
    assert [line.partition(" (")[0] for line in lines()] == [
        "this file system cannot flush folders to the disk",
        "this file system cannot flush files to the disk",
    ]


@pytest.mark.parametrize("number", REFUSALS)
def test_file_system_without_locks_costs_a_line(number, tmp_path, monkeypatch, lines):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with process.locked(tmp_path):
        assert process.holder(tmp_path) is None
    (line,) = lines()
    assert "cannot lock files" in line
    assert "do not run two processes in one directory" in line
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_is_an_error(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with (
        pytest.raises(OSError, match="Input/output"),
        atomic_write(tmp_path / "x") as partial,
    ):
        partial.write_text("half of it")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), process.locked(tmp_path):
        raise AssertionError("locked nothing")
    assert lines() == []
