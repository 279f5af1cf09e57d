"""Checkpoints: whole or not there, several, each byte of them verified."""

import errno
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from keras_resnet.errors import RunError
from keras_resnet.runs import checkpoints
from keras_resnet.runs.checkpoints import Damaged, Place

FACTS = {"history": [{"epoch": 1, "val_top1": 0.5}], "logs": None, "versions": {}}
NAMES = ("model/00000", "optimizer/00000", "metric/00000", "metric/00001")


class Killed(BaseException):
    """Stands for a SIGKILL: no handler of ours may count on seeing it."""


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return {
        NAMES[0]: random.normal(size=(120, 33)).astype(np.float32),
        NAMES[1]: random.normal(size=(7,)).astype(np.float32),
        NAMES[2]: np.array(seed + 3, np.int64),
        NAMES[3]: random.integers(0, 2**32, 2, np.uint32),
    }


def assert_holds(checkpoint, seed):
    expected = arrays(seed)
    assert checkpoint.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.arrays[name], array)
        assert checkpoint.arrays[name].dtype == array.dtype
        assert checkpoint.arrays[name].shape == array.shape


def write(run, *at, seed=0):
    return checkpoints.write(run, Place(*at), arrays(seed), FACTS)


def files(root):
    """{path: content} of every file below."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_what_is_read_is_what_was_written(tmp_path):
    path = write(tmp_path, 2, 17)
    assert path == checkpoints.path_of(tmp_path, Place(2, 17))
    checkpoint = checkpoints.read(path)
    assert checkpoint.place == (2, 17)
    assert checkpoint.facts == FACTS
    assert_holds(checkpoint, 0)
    assert {entry.name for entry in path.iterdir()} == {"state.npz", "manifest.json"}


def test_manifest_says_the_hash_that_sha256sum_says(tmp_path):
    path = write(tmp_path, 0, 1)
    said = json.loads((path / "manifest.json").read_text())["files"]
    content = (path / "state.npz").read_bytes()
    assert said == {"state.npz": hashlib.sha256(content).hexdigest()}


def test_run_without_checkpoints_has_no_newest(tmp_path):
    assert checkpoints.newest(tmp_path / "none") == (None, [])
    (tmp_path / "checkpoints").mkdir()
    assert checkpoints.newest(tmp_path) == (None, [])


def test_newest_is_the_furthest_and_not_the_last_written(tmp_path):
    for at in [(1, 0), (0, 9), (0, 10), (10, 0), (9, 999_999)]:
        write(tmp_path, *at, seed=at[0])
    expected = [(0, 9), (0, 10), (1, 0), (9, 999_999), (10, 0)]
    assert checkpoints.places(tmp_path) == expected
    checkpoint, rejected = checkpoints.newest(tmp_path)
    assert (checkpoint.place, rejected) == ((10, 0), [])
    assert_holds(checkpoint, 10)


def test_same_place_is_replaced(tmp_path):
    write(tmp_path, 0, 1, seed=1)
    write(tmp_path, 0, 1, seed=2)
    assert_holds(checkpoints.newest(tmp_path)[0], 2)
    assert [e.name for e in (tmp_path / "checkpoints").iterdir()] == [str(Place(0, 1))]


@pytest.mark.parametrize("name", ["state.npz", "manifest.json"])
def test_file_cut_anywhere_is_rejected_for_the_one_before(name, tmp_path):
    write(tmp_path, 0, 1, seed=1)
    victim = write(tmp_path, 0, 2, seed=2) / name
    content = victim.read_bytes()
    step = 4096 if name == "state.npz" else 32
    cuts = [*range(0, len(content), step), len(content) - 1]
    assert len(cuts) > 3
    for cut in cuts:
        victim.write_bytes(content[:cut])
        checkpoint, (reason,) = checkpoints.newest(tmp_path)
        assert checkpoint.place == (0, 1)
        assert reason.startswith(f"{victim.parent}: damaged: ")
    victim.write_bytes(content)
    assert checkpoints.newest(tmp_path)[0].place == (0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_bit_flipped_in_any_array_is_rejected(name, tmp_path):
    write(tmp_path, 0, 1, seed=1)
    victim = write(tmp_path, 0, 2, seed=2) / "state.npz"
    content = bytearray(victim.read_bytes())
    content[content.index(arrays(2)[name].tobytes())] ^= 1
    victim.write_bytes(content)
    checkpoint, (reason,) = checkpoints.newest(tmp_path)
    assert_holds(checkpoint, 1)
    assert str(victim.parent) in reason
    assert "state.npz does not match its SHA-256 in manifest.json" in reason


def test_bit_flipped_anywhere_in_the_manifest_is_rejected(tmp_path):
    victim = write(tmp_path, 0, 2) / "manifest.json"
    content = victim.read_bytes()
    assert b"0.5" in content  # 0.4 would be as good JSON
    for index in range(len(content)):
        for bit in (1, 16):
            spoiled = bytearray(content)
            spoiled[index] ^= bit
            victim.write_bytes(spoiled)
            with pytest.raises(Damaged):
                checkpoints.read(victim.parent)
    victim.write_bytes(content)
    assert checkpoints.read(victim.parent).facts == FACTS


@pytest.mark.parametrize("name", ["state.npz", "manifest.json"])
def test_missing_file_is_named(name, tmp_path):
    write(tmp_path, 0, 1)
    victim = write(tmp_path, 0, 2)
    (victim / name).unlink()
    checkpoint, rejected = checkpoints.newest(tmp_path)
    assert checkpoint.place == (0, 1)
    assert rejected == [f"{victim}: damaged: {name} is missing"]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"sha256": 3, "files": {}}', '{"sha256": "ab"}']
)
def test_manifest_that_is_something_else_is_damaged(text, tmp_path):
    path = write(tmp_path, 0, 1)
    (path / "manifest.json").write_text(text)
    with pytest.raises(Damaged):
        checkpoints.read(path)


def test_manifest_of_another_checkpoint_is_damaged(tmp_path):
    first, second = write(tmp_path, 0, 1, seed=1), write(tmp_path, 0, 2, seed=2)
    shutil.copy(first / "manifest.json", second)
    with pytest.raises(Damaged, match=r"state\.npz does not match its SHA-256"):
        checkpoints.read(second)


def test_each_rejected_is_told_and_none_left_is_an_error(tmp_path):
    paths = [write(tmp_path, 0, batch) for batch in (1, 2, 3)]
    (paths[2] / "state.npz").write_bytes(b"")
    (paths[1] / "manifest.json").unlink()
    checkpoint, rejected = checkpoints.newest(tmp_path)
    assert checkpoint.place == (0, 1)
    assert len(rejected) == 2
    assert all(str(path) in told for path, told in zip(paths[:0:-1], rejected))
    shutil.rmtree(paths[0])
    paths[0].mkdir()
    with pytest.raises(RunError, match="none of its checkpoints is intact") as error:
        checkpoints.newest(tmp_path)
    assert all(str(path) in str(error.value) for path in paths)


ASIDE = (("fsync", 3), ("rename", 1))
CALLS = ("savez", "fsync", "rename")


def count_calls(monkeypatch, name, at=None, error=Killed, before=True):
    """Counts the calls of a function; raises at one, before or after it."""
    module = np if name == "savez" else os
    real, seen = getattr(module, name), []

    def counted(*args, **kwargs):
        seen.append(args)
        if len(seen) - 1 == at and before:
            raise error
        result = real(*args, **kwargs)
        if len(seen) - 1 == at:
            raise error
        return result

    monkeypatch.setattr(module, name, counted)
    return seen


def steps_of_a_write(replacing):
    """(function, which call) of every step of a write that may be the last."""
    numbers = {"savez": 1, "fsync": 4, "rename": 2 if replacing else 1}
    return [(name, at) for name in CALLS for at in range(numbers[name])]


@pytest.mark.parametrize("replacing", [False, True])
def test_a_write_flushes_files_and_folders_before_and_after_the_rename(
    replacing, tmp_path, monkeypatch
):
    if replacing:
        write(tmp_path, 0, 2)
    with monkeypatch.context() as patched:
        seen = {name: count_calls(patched, name) for name in CALLS}
        write(tmp_path, 0, 2)
    made = [(name, at) for name in CALLS for at in range(len(seen[name]))]
    assert made == steps_of_a_write(replacing)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize(("name", "at"), steps_of_a_write(True))
def test_killed_anywhere_in_a_write_leaves_a_whole_newest(
    name, at, replacing, before, tmp_path, monkeypatch
):
    write(tmp_path, 0, 1, seed=1)
    if replacing:
        write(tmp_path, 0, 2, seed=2)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *a, **k: None)  # a killed one tidies
        seen = count_calls(patched, name, at, before=before)  # up nothing
        if (name, at) in steps_of_a_write(replacing):
            with pytest.raises(Killed):
                write(tmp_path, 0, 2, seed=3)
        else:
            write(tmp_path, 0, 2, seed=3)
            assert len(seen) == at
    checkpoint, rejected = checkpoints.newest(tmp_path)
    assert rejected == []
    assert checkpoint.place in ((0, 1), (0, 2))
    if checkpoint.place == (0, 1):
        assert_holds(checkpoint, 1)
    else:
        assert any(
            np.array_equal(checkpoint.arrays[NAMES[0]], arrays(seed)[NAMES[0]])
            for seed in (2, 3)
        )
    write(tmp_path, 0, 3, seed=4)  # and the run goes on
    checkpoints.prune(tmp_path, Place(0, 3), 2)
    left = {entry.name for entry in (tmp_path / "checkpoints").iterdir()}
    assert str(Place(0, 3)) in left
    assert all(not name.startswith(".") for name in left)
    assert_holds(checkpoints.newest(tmp_path)[0], 4)


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize(
    ("name", "at"),
    # after the last flush, of the folder, the new one is in place
    [step for step in steps_of_a_write(True) if step not in ASIDE],
)
def test_failed_write_leaves_every_file_as_it_was(
    name, at, replacing, tmp_path, monkeypatch
):
    write(tmp_path, 0, 1, seed=1)
    if replacing:
        write(tmp_path, 0, 2, seed=2)
    before = files(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched:
        count_calls(patched, name, at, error=full)
        with pytest.raises(OSError, match="No space left on device"):
            write(tmp_path, 0, 2, seed=3)
    assert files(tmp_path) == before


def test_failed_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    write(tmp_path, 0, 2, seed=2)
    before = files(tmp_path)
    with monkeypatch.context() as patched:
        count_calls(patched, "rename", 1, error=OSError(errno.EROFS, "read-only"))
        with pytest.raises(OSError, match="read-only"):
            write(tmp_path, 0, 2, seed=3)
    assert files(tmp_path) == before


def test_newest_and_best_are_kept_and_leftovers_go(tmp_path):
    for epoch in range(1, 7):
        write(tmp_path, epoch)
    folder = tmp_path / "checkpoints"
    (folder / f".partial.{Place(6, 3)}").mkdir()
    (folder / f".partial.{Place(6, 3)}" / "state.npz").write_bytes(b"half")
    (folder / f".partial.{Place(0, 3)}.old").mkdir()
    checkpoints.prune(tmp_path, Place(6), 2, Place(3))
    assert checkpoints.places(tmp_path) == [(3, 0), (5, 0), (6, 0)]
    assert len(list(folder.iterdir())) == 3
    checkpoints.prune(tmp_path, Place(6), 3, Place(6))  # the best may be the newest
    assert checkpoints.places(tmp_path) == [(3, 0), (5, 0), (6, 0)]
    checkpoints.prune(tmp_path, Place(6), 2)
    assert checkpoints.places(tmp_path) == [(5, 0), (6, 0)]


def test_rejected_ones_do_not_push_the_good_out(tmp_path):
    for batch in (1, 5, 6):
        write(tmp_path, 0, batch)
    for batch in (5, 6):
        path = checkpoints.path_of(tmp_path, Place(0, batch))
        (path / "state.npz").write_bytes(b"")
    assert checkpoints.newest(tmp_path)[0].place == (0, 1)
    write(tmp_path, 0, 2)  # it went on from there
    checkpoints.prune(tmp_path, Place(0, 2), 2)
    assert checkpoints.places(tmp_path) == [(0, 1), (0, 2)]
    assert checkpoints.newest(tmp_path)[1] == []


def test_files_of_others_stay(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    others = [
        tmp_path / "thesis.txt",
        folder / "notes.txt",
        folder / "epoch9-batch0" / "state.npz",  # no name of ours: not as wide
        folder / "best" / "weights.h5",
        folder / "epoch00001-batch0000000.bak" / "state.npz",
        folder / ".hidden" / "file",
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    ours = [checkpoints.path_of(tmp_path, Place(epoch)) for epoch in (1, 2, 3)]
    for epoch in (1, 2, 3):
        write(tmp_path, epoch)
    checkpoints.prune(tmp_path, Place(3), 2)
    assert [path.is_dir() for path in ours] == [False, True, True]
    assert {path.read_text() for path in others} == {"mine"}
    checkpoint, rejected = checkpoints.newest(tmp_path)
    assert (checkpoint.place, rejected) == ((3, 0), [])
