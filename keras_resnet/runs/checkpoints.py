"""Checkpoints of a run: whole or not there, several, each verified when it is read."""

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
    """A checkpoint that does not verify, and why."""


class Place(NamedTuple):
    """Where a run stands: whole epochs, and whole batches of the next one."""

    epoch: int
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch{self.epoch:05d}-batch{self.batch:07d}"


@dataclass(frozen=True)
class Checkpoint:
    """What one holds.

    Attributes:
        place: where the run stood.
        arrays: {name: array} of the state.
        facts: what `write` was told beside it, as JSON has it.
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
    """Writes a checkpoint aside, flushes it to the disk and renames it into place.

    Args:
        run: the run directory.
        place: of the run; a checkpoint of the same place is replaced.
        arrays: numbers only.
        facts: what JSON can hold.

    Raises:
        OSError: the disk is full, or may not be written; what was there stays.
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
    """Reads one checkpoint, every byte of it verified.

    Raises:
        Damaged: in what way.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    try:
        text = (path / _MANIFEST).read_text()
        manifest = json.loads(text)
        own, said = manifest.pop(_OWN), manifest.pop("files")[_STATE]
        if hashlib.sha256(text.replace(own, "", 1).encode()).hexdigest() != own:
            raise Damaged(f"{_MANIFEST} is not what it was by its own SHA-256")
        if _sha256(path / _STATE) != said:
            raise Damaged(f"{_STATE} is not what {_MANIFEST} says by its SHA-256")
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
    """Where the checkpoints of a run were taken, the newest last."""
    folder = Path(run, layout.CHECKPOINTS)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    matches = filter(None, map(_NAME.fullmatch, names))
    found = [(Place(*map(int, match.groups())), match.string) for match in matches]
    return sorted(place for place, name in found if name == str(place))


def path_of(run: str | os.PathLike[str], place: Place) -> Path:
    """The folder of the checkpoint of a place."""
    return Path(run, layout.CHECKPOINTS, str(place))


def newest(run: str | os.PathLike[str]) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, if there are any; and why others do not.

    Raises:
        RunError: there are checkpoints, and not one verifies.
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
            f"{run}: not one of its checkpoints verifies: {'; '.join(rejected)}. Bring "
            f"one back, or remove {layout.CHECKPOINTS}/ to start afresh"
        )
    return None, []


def prune(
    run: str | os.PathLike[str], last: Place, keep: int, best: Place | None = None
) -> None:
    """Removes all but the newest `keep` and the best, and what was never finished.

    Args:
        run: the run directory.
        last: the newest; those after it were rejected when the run went on.
        keep: 2 or more, the last included.
        best: that stays besides.
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
    """JSON text with the SHA-256 that it has while that is empty."""
    text = json.dumps({_OWN: "", **manifest}, indent=1)
    own = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'"{_OWN}": ""', f'"{_OWN}": "{own}"', 1)


def _replace(partial: Path, target: Path) -> None:
    """A folder cannot be renamed onto another: that one goes aside meanwhile."""
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
    """At once for a reader: half a folder would be a damaged checkpoint."""
    shutil.rmtree(_doomed(path), ignore_errors=True)


def _doomed(path: Path) -> Path:
    doomed = files.unique(path)
    os.rename(path, doomed)
    return doomed


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
