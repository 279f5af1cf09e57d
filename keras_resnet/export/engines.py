"""Opens exported models, which run in their own runtimes, for use like Keras models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import ModelError
from keras_resnet.export import runtimes
from keras_resnet.export.description import DESCRIPTION, Description, read_description
from keras_resnet.export.formats import FILES, INPUT, OUTPUT, brief, quiet
from keras_resnet.export.metagraph import Shape
from keras_resnet.export.numbering import version_folders
from keras_resnet.info import ModelInfo
from keras_resnet.model import ResNet
from keras_resnet.opening import open_model, read_model_info
from keras_resnet.runs import layout
from keras_resnet.transfer.detection import MOST


class Engine:
    """An exported model with the interface that evaluation and prediction need.

    It runs on the CPU with the runtime's default number of threads. It is not
    thread-safe: only one thread at a time may call it.

    Attributes:
        info: the ModelInfo of the exported model.
        name: the path that was opened.
        format: one of `formats.FORMATS`.
        precision: one of `formats.FORMATS[format]`.
        input_shape: (None, S, S, 3).
    """

    def __init__(self, name: str, description: Description, run: runtimes.Run) -> None:
        self.name, self.info = name, description.info
        self.format, self.precision = description.format, description.precision
        side = self.info.protocol.size
        self.input_shape = (None, side, side, 3)
        self._run: runtimes.Run | None = run

    def predict_on_batch(self, images: np.ndarray) -> Any:
        """Returns the class probabilities of images, float32 [N, K].

        Of a segmenter these are logits, [N, S, S, K]; of a detector {"boxes", "labels",
        "confidence", "classes"}.

        Args:
            images: [N, S, S, 3] of any dtype, RGB in [0, 255]; N may be 0.

        Raises:
            ModelError: the images have another shape, the engine is closed, or the
                runtime fails.
        """
        images = np.ascontiguousarray(images, np.float32)
        if images.ndim != 4 or images.shape[1:] != self.input_shape[1:]:
            side = self.info.protocol.size
            raise ModelError(
                f"{self.name}: images of shape {images.shape}: an exported model takes "
                f"{side} pixels only, [N, {side}, {side}, 3]"
            )
        if self._run is None:
            raise ModelError(f"{self.name}: closed; open it again")
        if not len(images):  # not every runtime accepts an empty batch
            return np.zeros((0, self.info.classes), np.float32)
        try:
            outputs = self._run(images)
            return outputs if isinstance(outputs, dict) else np.array(outputs, "f4")
        except Exception as error:  # each runtime has its own exceptions
            raise ModelError(f"{self.name}: {brief(error)}") from error

    def close(self) -> None:
        """Frees the model; further calls have no effect."""
        self._run = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_engine(path: str | os.PathLike[str]) -> Engine:
    """Opens an exported model.

    Args:
        path: a model folder, of which the newest version is opened, the folder of a
            version, or the model file in it.

    Raises:
        ModelError: something is missing or damaged, was not exported by this package,
            or needs a package that is not installed; the message names it.
    """
    folder, file = _locate(Path(path))
    description = read_description(folder)
    expected = folder / FILES[description.format]
    if file not in (None, expected):
        raise ModelError(
            f"{file}: the {DESCRIPTION} beside it describes {expected.name}; open that"
        )
    if not expected.is_file():
        raise ModelError(f"{expected}: no such file; export the model again")
    with quiet():
        shapes, run = runtimes.start(
            description.format, expected, description.precision
        )
    engine = Engine(str(path), description, run)
    described = _described(description.info)
    if shapes != described:
        raise ModelError(
            f"{expected}: has {shapes}, but its {DESCRIPTION} describes {described}"
        )
    return engine


def _described(info: ModelInfo) -> dict[str, Shape]:
    """{tensor: shape} of what a model with this description takes and gives."""
    side = info.protocol.size
    outputs: dict[str, dict[str, Shape]] = {
        "classify": {OUTPUT: (None, info.classes)},
        "segment": {"logits": (None, side, side, info.classes)},
        "detect": {
            "boxes": (None, MOST, 4),
            **dict.fromkeys(("classes", "confidence", "labels"), (None, MOST)),
        },
    }
    return {INPUT: (None, side, side, 3), **outputs[info.task]}


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is that of an export, which `open_engine` opens.

    Run directories, .keras files and "variant:weights" are for `open_model`.
    """
    path = Path(path)
    if path.is_dir():
        return not (path / layout.MODEL).is_file() and _has_model(_newest(path))
    suffixes = {Path(name).suffix for name in FILES.values()}
    return path.suffix in suffixes - {".pb"}  # a common suffix of other files


def task_of(name: str | os.PathLike[str]) -> str:
    """The task of what `open_any` would open, from its description alone."""
    if is_exported(name):
        return read_description(_locate(Path(name))[0]).info.task
    path = Path(name)
    is_file = path.is_dir() or path.suffix == ".keras"
    return read_model_info(path).task if is_file else "classify"


def open_any(name: str | os.PathLike[str]) -> Engine | ResNet:
    """Opens an export with `open_engine`, and any other model with `open_model`.

    Raises:
        ModelError, WeightsError: the message has the name and what is wrong with it.
    """
    return open_engine(name) if is_exported(name) else open_model(name)


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Returns (the folder of a version, the file if the path is that of a file)."""
    if path.is_dir():
        return _newest(path), None
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder; export a model there first")
    return path.parent, path


def _newest(folder: Path) -> Path:
    """Returns the folder itself if it has a model, or else its newest version."""
    folders = [*version_folders(folder).values()]
    return folder if _has_model(folder) or not folders else folders[-1]


def _has_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (DESCRIPTION, *FILES.values()))
