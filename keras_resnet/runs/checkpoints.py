"""Checkpoints of a run, written atomically and verified when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet import files
from keras_resnet.errors import RunError
from keras_resnet.runs import layout

_STATE, _MANIFEST = "state.npz", "manifest.json"
_HASH_KEY = "sha256"  # the manifest's key for its own hash
_NAME = re.compile(r"epoch(\d{1,9})-batch(\d{1,9})")


class Damaged(ValueError):
    """Raised for a checkpoint that fails verification; the message is the reason."""


class Place(NamedTuple):
    """The progress of a run: completed epochs, and batches done of the next one."""

    epoch: int
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch{self.epoch:05d}-batch{self.batch:07d}"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        place: the run's progress when the checkpoint was taken.
        arrays: {name: array} of the state.
        facts: the metadata that was passed to `write`, after a round trip through JSON.
    """

    place: Place
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def write(
    run: str | os.PathLike[str],
    place: Place,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> Path:
    """Writes a checkpoint to a hidden folder, flushes it and renames it into place.

    Args:
        run: the run directory.
        place: the run's progress; an existing checkpoint of the same place is replaced.
        arrays: {name: array} of the state, with numeric dtypes only.
        facts: JSON-serializable metadata.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: the disk is full or not writable; existing checkpoints are unaffected.
    """
    folder = Path(run, layout.CHECKPOINTS)
    folder.mkdir(exist_ok=True)
    target = folder / str(place)
    partial = files.unique(target)
    partial.mkdir()
    try:
        with open(partial / _STATE, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            files.flush(stream)
        manifest = {"files": {_STATE: files.sha256(partial / _STATE)}, **facts}
        with open(partial / _MANIFEST, "w") as stream:
            stream.write(_with_hash(manifest))
            files.flush(stream)
        files.sync(partial)
        _replace(partial, target)
        files.sync(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint and verifies every byte of it.

    Raises:
        Damaged: a file is missing, unreadable or does not match its SHA-256.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    try:
        text = (path / _MANIFEST).read_text()
        manifest = json.loads(text)
        own_hash = manifest.pop(_HASH_KEY)
        state_hash = manifest.pop("files")[_STATE]
        unhashed = text.replace(own_hash, "", 1)
        if hashlib.sha256(unhashed.encode()).hexdigest() != own_hash:
            raise Damaged(f"{_MANIFEST} does not match its own SHA-256")
        if files.sha256(path / _STATE) != state_hash:
            raise Damaged(f"{_STATE} does not match its SHA-256 in {_MANIFEST}")
        with np.load(path / _STATE, allow_pickle=False) as arrays:
            values = dict(arrays)
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{_MANIFEST} lacks valid hashes ({error})") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise error if isinstance(error, Damaged) else Damaged(str(error)) from error
    assert match
    return Checkpoint(Place(*map(int, match.groups())), values, manifest)


def places(run: str | os.PathLike[str]) -> list[Place]:
    """Returns the places of a run's checkpoints, the newest last."""
    folder = Path(run, layout.CHECKPOINTS)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    matches = filter(None, map(_NAME.fullmatch, names))
    found = [(Place(*map(int, match.groups())), match.string) for match in matches]
    return sorted(place for place, name in found if name == str(place))


def path_of(run: str | os.PathLike[str], place: Place) -> Path:
    """Returns the folder of the checkpoint of `place`."""
    return Path(run, layout.CHECKPOINTS, str(place))


def newest(run: str | os.PathLike[str]) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest intact checkpoint and why newer ones were rejected.

    Returns:
        (checkpoint, messages about damaged newer ones); (None, []) without checkpoints.

    Raises:
        RunError: all checkpoints are damaged.
    """
    rejected: list[str] = []
    for place in reversed(places(run)):
        path = path_of(run, place)
        try:
            return read(path), rejected
        except Damaged as error:
            rejected.append(f"{path}: damaged: {error}")
    if rejected:
        raise RunError(
            f"{run}: none of its checkpoints is intact: {'; '.join(rejected)}. Restore "
            f"one, or remove {layout.CHECKPOINTS}/ to start from scratch"
        )
    return None, []


def prune(
    run: str | os.PathLike[str], last: Place, keep: int, best: Place | None = None
) -> None:
    """Removes partial checkpoints, and all but the newest `keep` and the best one.

    Args:
        run: the run directory.
        last: the place of the newest valid checkpoint; later ones, which were rejected
            when the run was resumed, are removed.
        keep: how many to keep, 2 or more, including `last`.
        best: the place of a checkpoint to keep in addition.
    """
    folder = Path(run, layout.CHECKPOINTS)
    every = places(run)
    kept = {best, *[place for place in every if place <= last][-keep:]}
    for place in every:
        if place not in kept:
            _remove(folder / str(place))
    for partial in folder.glob(f"{files.PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _with_hash(manifest: Mapping[str, Any]) -> str:
    """Returns JSON text with its own SHA-256, computed while that field is empty."""
    text = json.dumps({_HASH_KEY: "", **manifest}, indent=1)
    own_hash = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'"{_HASH_KEY}": ""', f'"{_HASH_KEY}": "{own_hash}"', 1)


def _replace(partial: Path, target: Path) -> None:
    """Renames a folder to `target`, first moving an existing `target` away."""
    if not target.exists():
        os.rename(partial, target)
        return
    previous = _move_aside(target)  # a folder cannot be renamed onto a non-empty one
    try:
        os.rename(partial, target)
    except OSError:
        os.rename(previous, target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a checkpoint, hiding it first so that no reader sees half of it."""
    shutil.rmtree(_move_aside(path), ignore_errors=True)


def _move_aside(path: Path) -> Path:
    hidden = files.unique(path)
    os.rename(path, hidden)
    return hidden
