"""The checkpoints of a run: written completely or not at all, verified when read."""

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
_OWN = "sha256"  # the manifest's key for the hash of itself
_NAME = re.compile(r"epoch(\d{1,9})-batch(\d{1,9})")


class Damaged(ValueError):
    """A checkpoint does not verify; the message says why."""


class Place(NamedTuple):
    """A position in a run: the completed epochs, and the batches of the next one."""

    epoch: int
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch{self.epoch:05d}-batch{self.batch:07d}"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        place: the position of the run.
        arrays: {name: array} of the training state.
        facts: the JSON values that `write` was given.
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
    """Writes a checkpoint to a temporary folder, flushes it and renames it into place.

    Args:
        run: the run directory.
        place: the position of the run; a checkpoint of the same position is replaced.
        arrays: {name: array} of numbers.
        facts: values that JSON can hold.

    Raises:
        OSError: the disk is full or read-only. Existing checkpoints stay.
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
        manifest = {"files": {_STATE: _sha256(partial / _STATE)}, **facts}
        with open(partial / _MANIFEST, "w") as stream:
            stream.write(_signed(manifest))
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
        Damaged: it does not verify.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    try:
        text = (path / _MANIFEST).read_text()
        manifest = json.loads(text)
        own, said = manifest.pop(_OWN), manifest.pop("files")[_STATE]
        if hashlib.sha256(text.replace(own, "", 1).encode()).hexdigest() != own:
            raise Damaged(f"{_MANIFEST} does not match its own SHA-256")
        if _sha256(path / _STATE) != said:
            raise Damaged(f"{_STATE} does not match the SHA-256 in {_MANIFEST}")
        with np.load(path / _STATE, allow_pickle=False) as arrays:
            values = dict(arrays)
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{_MANIFEST} does not name its files ({error})") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise error if isinstance(error, Damaged) else Damaged(str(error)) from error
    assert match
    return Checkpoint(Place(*map(int, match.groups())), values, manifest)


def places(run: str | os.PathLike[str]) -> list[Place]:
    """The positions of a run's checkpoints, the newest last."""
    folder = Path(run, layout.CHECKPOINTS)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    matches = filter(None, map(_NAME.fullmatch, names))
    found = [(Place(*map(int, match.groups())), match.string) for match in matches]
    return sorted(place for place, name in found if name == str(place))


def path_of(run: str | os.PathLike[str], place: Place) -> Path:
    """The folder of the checkpoint at a position."""
    return Path(run, layout.CHECKPOINTS, str(place))


def newest(run: str | os.PathLike[str]) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and what is wrong with newer ones.

    Returns:
        (None, []) for a run without checkpoints.

    Raises:
        RunError: there are checkpoints, but none of them verifies.
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
            f"{run}: none of its checkpoints verifies: {'; '.join(rejected)}. Restore "
            f"one, or remove {layout.CHECKPOINTS}/ to start again"
        )
    return None, []


def prune(
    run: str | os.PathLike[str], last: Place, keep: int, best: Place | None = None
) -> None:
    """Removes old checkpoints, and unfinished ones.

    Args:
        run: the run directory.
        last: the newest valid position; later ones were rejected when the run resumed.
        keep: how many of the newest to keep, 2 or more.
        best: a further one to keep.
    """
    folder = Path(run, layout.CHECKPOINTS)
    every = places(run)
    kept = {best, *[place for place in every if place <= last][-keep:]}
    for place in every:
        if place not in kept:
            _remove(folder / str(place))
    for partial in folder.glob(f"{files.PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _signed(manifest: Mapping[str, Any]) -> str:
    """JSON text with its own SHA-256, computed with an empty string in its place."""
    text = json.dumps({_OWN: "", **manifest}, indent=1)
    own = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'"{_OWN}": ""', f'"{_OWN}": "{own}"', 1)


def _replace(partial: Path, target: Path) -> None:
    """Renames `partial` to `target`; a folder in its place is renamed away first."""
    if not target.exists():
        os.rename(partial, target)
        return
    doomed = _doomed(target)
    try:
        os.rename(partial, target)
    except OSError:
        os.rename(doomed, target)
        raise
    shutil.rmtree(doomed, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a folder; it is renamed first, so that no reader sees half of it."""
    shutil.rmtree(_doomed(path), ignore_errors=True)


def _doomed(path: Path) -> Path:
    doomed = files.unique(path)
    os.rename(path, doomed)
    return doomed


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
