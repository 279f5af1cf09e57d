"""An exported model, run by its framework's own runtime as a model of ours is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnet.errors import DescriptionError, ModelError
from keras_resnet.export import converters, runtimes
from keras_resnet.export.formats import FILES, FORMATS
from keras_resnet.export.numbering import version_folders
from keras_resnet.info import ModelInfo, parse
from keras_resnet.opening import open_model
from keras_resnet.runs import layout

DESCRIPTION = "model.json"  # beside an exported model; a SavedModel's is in assets/
_MAX_DESCRIPTION = 2**24  # bytes; names of 20,000 classes take one of these 16 MiB


@dataclass(frozen=True)
class Description:
    """What the file beside an exported model says of it."""

    format: str
    precision: str
    info: ModelInfo
    difference: float | None = None  # largest |p - p'| when it was written


def describe(model, format: str, precision: str = "float32") -> dict:
    """What DESCRIPTION has to say of an exported model, as JSON takes it."""
    info = model.info.replace(dtype_policy="float32", input_shape=None)
    if info.gives_logits:
        info = info.replace(classifier_activation="softmax")  # as it is exported
    info = dataclasses.asdict(info)
    return {"format": format, "precision": precision, "info": info}


def read_description(folder) -> Description:
    """Reads the description of the exported model in a folder, as data.

    Raises:
        ModelError: it is missing, too large, or describes no export of ours; the last
            as a DescriptionError, which is a WeightsError too.
    """
    places = [Path(folder, DESCRIPTION), Path(folder, "assets", DESCRIPTION)]
    path = next(filter(Path.is_file, places), None)
    if path is None:
        raise ModelError(
            f"{folder}: no {DESCRIPTION} beside the model, which `keras-resnet export` "
            "writes; export it again from the run directory or .keras file"
        )
    if path.stat().st_size > _MAX_DESCRIPTION:
        raise ModelError(
            f"{path}: larger than {_MAX_DESCRIPTION} bytes; no description"
        )
    try:
        said = parse(path.read_bytes())
        format, precision, info = said["format"], said["precision"], said["info"]
        if precision not in FORMATS[format]:
            raise ValueError(f"precision={precision!r} with format={format!r}")
        difference = said.get("difference")
        if not isinstance(difference, float | int | None):
            raise ValueError(f"difference={difference!r}")
        info = _checked(ModelInfo.from_json(info))
        return Description(format, precision, info, difference)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = converters.brief(error)
        raise DescriptionError(
            f"{path}: describes no export of ours ({reason})"
        ) from error


class Engine:
    """An exported model with what evaluation and prediction ask of a model.

    It runs on the CPU, with its runtime's usual number of threads; one thread at a time
    may call it.

    Attributes:
        info: the ModelInfo that it was exported with.
        name: the path that was opened.
        format, precision: of FORMATS.
        input_shape: (None, S, S, 3).
    """

    def __init__(self, name: str, description: Description, run: Callable | None):
        self.name, self.info = name, description.info
        self.format, self.precision = description.format, description.precision
        side = self.info.protocol.size
        self.input_shape = (None, side, side, 3)
        self._run = run

    def predict_on_batch(self, images) -> np.ndarray:
        """Probabilities of pictures, float32 [N, K].

        Args:
            images: [N, S, S, 3] of any dtype, RGB in [0, 255]; N may be 0.

        Raises:
            ModelError: pictures of another shape, a closed engine, or what the runtime
                says.
        """
        images = np.ascontiguousarray(images, np.float32)
        if images.ndim != 4 or images.shape[1:] != self.input_shape[1:]:
            raise ModelError(
                f"{self.name}: images of shape {images.shape}: an exported model takes "
                f"{self.input_shape[1]} pixels only, [N, {self.input_shape[1]}, "
                f"{self.input_shape[1]}, 3]"
            )
        if self._run is None:
            raise ModelError(f"{self.name}: closed; open it again")
        if not len(images):  # which not every runtime takes
            return np.zeros((0, self.info.classes), np.float32)
        try:
            return np.array(self._run(images), np.float32)
        except Exception as error:  # each runtime has its own
            raise ModelError(f"{self.name}: {converters.brief(error)}") from error

    def close(self) -> None:
        """Frees the model; again, it does nothing."""
        self._run = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_engine(path) -> Engine:
    """Opens an exported model.

    Args:
        path: DIR, whose newest version is taken, DIR/<version>, or the file in it.

    Raises:
        ModelError: naming what is missing, damaged, not ours, or not installed.
    """
    folder, file = _locate(Path(path))
    description = read_description(folder)
    expected = folder / FILES[description.format]
    if file not in (None, expected):
        raise ModelError(f"{file}: {DESCRIPTION} beside it is of {expected.name}")
    if not expected.is_file():
        raise ModelError(f"{expected}: no such file; export the model again")
    try:
        with converters.quiet():
            shapes, run = runtimes.start(
                description.format, expected, description.precision
            )
    except ModelError:
        raise
    except Exception as error:  # each runtime has its own
        raise ModelError(
            f"{expected}: not a readable {description.format} model: "
            f"{converters.brief(error)}"
        ) from error
    engine = Engine(str(path), description, run)
    ours = {
        converters.INPUT: engine.input_shape,
        converters.OUTPUT: (None, description.info.classes),
    }
    if shapes != ours:
        raise ModelError(
            f"{expected}: has {shapes}, but its {DESCRIPTION} describes {ours}"
        )
    return engine


def is_exported(path) -> bool:
    """Whether `open_engine` is for this path: an export's folder, or a file's name.

    A run directory, a .keras file and "variant:weights" are for `open_model`.
    """
    path = Path(path)
    if path.is_dir():
        return not (path / layout.MODEL).is_file() and _has_model(_newest(path))
    return path.suffix in {Path(file).suffix for file in FILES.values()} - {".pb"}


def open_any(name):
    """What `open_engine` opens, as an Engine; or what `open_model` does, as a ResNet.

    Raises:
        ModelError, WeightsError: naming what was given and what is wrong with it.
    """
    return open_engine(name) if is_exported(name) else open_model(name)


def _locate(path):
    """(the folder of a version, the file in it that was given or None)."""
    if path.is_dir():
        return _newest(path), None
    if not path.is_file():
        raise ModelError(f"{path}: no such file or folder; export a model there first")
    return path.parent, path


def _newest(folder):
    """The folder itself where it holds a model, or its newest version."""
    names = [*version_folders(folder).values()]
    return folder if _has_model(folder) or not names else folder / names[-1]


def _has_model(folder):
    return any((folder / name).is_file() for name in (DESCRIPTION, *FILES.values()))


def _checked(info):
    """The ModelInfo, if an export can have it; else a ValueError."""
    facts = {
        "classes": info.classes > 0,
        "include_top": info.include_top,
        "include_preprocessing": info.include_preprocessing,
        "classifier_activation": info.classifier_activation is not None,
        "dtype_policy": info.dtype_policy == "float32",
    }
    if wrong := [name for name, right in facts.items() if not right]:
        raise ValueError(", ".join(f"{name}={getattr(info, name)!r}" for name in wrong))
    return info
