"""Reads and writes model.json: the format, precision and ModelInfo of an export."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.errors import DescriptionError, ModelError
from keras_resnet.export.formats import FORMATS, brief
from keras_resnet.info import ModelInfo, parse

DESCRIPTION = "model.json"  # beside an exported model; a SavedModel's is in assets/
_MEASURES = {"top1": "top-1", "micro_f1": "micro F1"}
_MAX_BYTES = 2**24  # 16 MiB; the names of 20,000 classes take about 1 MiB


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model before and after quantization, on the same images."""

    measure: str  # "top1"; or "micro_f1", for several labels
    float32: float  # in [0, 1]
    int8: float
    examples: int

    @classmethod
    def from_json(cls, content: Any) -> Accuracy:
        """The Accuracy of its JSON; raises a ValueError or TypeError for another."""
        accuracy = cls(**content)
        numbers = (accuracy.float32, accuracy.int8, accuracy.examples)
        if accuracy.measure not in _MEASURES or not all(
            isinstance(number, float | int) for number in numbers
        ):
            raise ValueError(f"accuracy={content!r}")
        return accuracy

    @property
    def lost(self) -> float:
        """What was lost, in percentage points; negative if it was gained."""
        return 100 * (self.float32 - self.int8)

    def __str__(self) -> str:
        return (
            f"{_MEASURES[self.measure]} {100 * self.int8:.2f} % of {self.examples} "
            f"held-out images, {100 * self.float32:.2f} % in float32"
        )


@dataclass(frozen=True)
class Description:
    """The content of a model.json, which describes the exported model beside it."""

    format: str
    precision: str
    info: ModelInfo
    difference: float | None = None  # the largest |p - p'| at export
    accuracy: Accuracy | None = None  # of an int8 export that was calibrated


def write_description(
    folder: str | os.PathLike[str],
    info: ModelInfo,
    format: str,
    precision: str = "float32",
    difference: float | None = None,
    accuracy: Accuracy | None = None,
) -> None:
    """Writes the model.json of an exported model.

    Args:
        folder: an existing folder.
        info: the ModelInfo of the model that was exported.
        format: one of `formats.FORMATS`.
        precision: one of `formats.FORMATS[format]`.
        difference: the largest difference of probabilities that `comparing` found.
        accuracy: before and after quantization.
    """
    info = info.replace(dtype_policy="float32", input_shape=None)
    if info.gives_logits:
        info = info.replace(classifier_activation=info.probability)  # `save` adds it
    content: dict[str, Any] = {"format": format, "precision": precision}
    content["info"] = dataclasses.asdict(info)
    if difference is not None:
        content["difference"] = difference
    if accuracy is not None:
        content["accuracy"] = dataclasses.asdict(accuracy)
    Path(folder, DESCRIPTION).write_text(json.dumps(content, indent=1))


def read_description(folder: str | os.PathLike[str]) -> Description:
    """Reads the model.json of the exported model in a folder; it executes no code.

    Raises:
        ModelError: the file is missing or too large.
        DescriptionError: the file does not describe an export of this package. It is
            both a ModelError and a WeightsError.
    """
    places = [Path(folder, DESCRIPTION), Path(folder, "assets", DESCRIPTION)]
    path = next(filter(Path.is_file, places), None)
    if path is None:
        raise ModelError(
            f"{folder}: no {DESCRIPTION} beside the model, which `keras-resnet export` "
            "writes; export it again from the run directory or .keras file"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes; export again")
    try:
        content = parse(path.read_bytes())
        format, precision = content["format"], content["precision"]
        if precision not in FORMATS[format]:
            raise ValueError(f"precision={precision!r} with format={format!r}")
        difference = content.get("difference")
        if not isinstance(difference, float | int | None):
            raise ValueError(f"difference={difference!r}")
        info = ModelInfo.from_json(content["info"])
        _check_exportable(info)
        found = content.get("accuracy")
        accuracy = None if found is None else Accuracy.from_json(found)
        return Description(format, precision, info, difference, accuracy)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DescriptionError(
            f"{path}: describes no export of keras_resnet ({brief(error)})"
        ) from error


def _check_exportable(info: ModelInfo) -> None:
    """Raises a ValueError for fields that no exported model can have."""
    rules = {
        "classes": info.classes > 0,
        "include_top": info.include_top,
        "include_preprocessing": info.include_preprocessing,
        "classifier_activation": info.classifier_activation is not None,
        "dtype_policy": info.dtype_policy == "float32",
    }
    broken = [
        f"{name}={getattr(info, name)!r}" for name, holds in rules.items() if not holds
    ]
    if broken:
        raise ValueError(", ".join(broken))
