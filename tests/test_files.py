"""Flushes and locks: done, or a line where the file system refuses them."""

import errno
import fcntl
import os

import pytest

from keras_resnet import checkpoints, files, process
from keras_resnet.weights import aside

REFUSALS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def refusing(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(autouse=True)
def lines(capsys):
    """The lines printed to stderr since the last look, each of which comes once."""
    files._print_once.cache_clear()
    yield lambda: capsys.readouterr().err.splitlines()
    files._print_once.cache_clear()


@pytest.mark.parametrize("number", REFUSALS)
def test_file_system_without_flushes_costs_a_line(number, tmp_path, monkeypatch, lines):
    monkeypatch.setattr(os, "fsync", refusing(number))
    for _ in range(2):
        with aside(tmp_path / "file") as partial:
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
    assert "let no two processes write to one directory" in line
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_is_an_error(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), aside(tmp_path / "x") as partial:
        partial.write_text("half of it")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), process.locked(tmp_path):
        raise AssertionError("locked nothing")
    assert lines() == []
