"""Runs ONNX and OpenVINO exports with the signatures of a SavedModel, for the server.

It imports neither TensorFlow nor Keras. Files are decoded, and classes ranked, by a
small SavedModel beside the export, so that the answers are those of a SavedModel up to
the rounding of the runtime.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import ModelError, SavedModelError
from keras_resnet.export import runtimes
from keras_resnet.export.description import read_description
from keras_resnet.export.formats import FILES, FRAME, INPUT, OUTPUT, SERVED, brief
from keras_resnet.export.metagraph import Side, Spec
from keras_resnet.export.savedmodel import SavedModel

_METHOD = "tensorflow/serving/predict"


def open_served(
    folder: str | os.PathLike[str], streams: int = 1
) -> SavedModel | ServedEngine:
    """Opens the version of a model that is in a folder, whichever its format.

    Args:
        folder: the folder of the version.
        streams: as of a ServedEngine.

    Raises:
        SavedModelError: it cannot be opened; the message has the reason.
    """
    others = [name for format, name in FILES.items() if format != "savedmodel"]
    if not any(Path(folder, name).is_file() for name in others):
        return SavedModel(folder)
    try:
        return ServedEngine(folder, streams)
    except ModelError as error:
        raise SavedModelError(str(error)) from error


class ServedEngine:
    """An ONNX or OpenVINO export with the interface of a SavedModel.

    Several threads may `run` it at the same time. No thread may use it once another one
    calls `close`.

    Args:
        folder: the folder of the version.
        streams: how many threads call `run` at a time; OpenVINO divides the cores among
            them, which answers more requests a second than taking turns.

    Attributes:
        signatures, metadata: as of a SavedModel.

    Raises:
        ModelError: the export is damaged, of another format, or needs a package that is
            not installed.
        SavedModelError: the frame beside it is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], streams: int = 1) -> None:
        described = read_description(folder)
        path = Path(folder, FILES[described.format])
        if described.format not in SERVED:
            raise ModelError(
                f"{path}: {described.format} is not served; export it as savedmodel, "
                f"{' or '.join(SERVED)}"
            )
        frame = Path(folder, FRAME)
        if not frame.is_dir():
            raise ModelError(f"{frame}: no such folder; export the model again")
        shapes, self._compute = runtimes.start(
            described.format, path, described.precision, streams
        )
        self._frame: SavedModel = SavedModel(frame)
        self._has_ended = False
        sides: list[dict[str, Spec]] = [
            {name: ("float32", shapes[name])} for name in (INPUT, OUTPUT)
        ]
        self.signatures: dict[str, dict[str, dict[str, Spec]]] = {
            "serving_default": dict(zip(("inputs", "outputs"), sides)),
            "serving_bytes": {
                "inputs": self._frame.signatures["decode"]["inputs"],
                "outputs": self._frame.signatures["rank"]["outputs"],
            },
        }

    @property
    def metadata(self) -> dict[str, tuple[str, Side, Side]]:
        """As of a SavedModel; each tensor has the name of its key."""
        return {
            name: (_METHOD, _named(sides["inputs"]), _named(sides["outputs"]))
            for name, sides in self.signatures.items()
        }

    def run(
        self, signature: str, seconds: float | None = None, /, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Runs a signature, like one request to a server.

        Args:
            signature: one of `signatures`.
            seconds: the time limit. The runtime is not interrupted, but nothing starts
                after it. None: no limit.
            inputs: an array for each input of the signature.

        Returns:
            {key: array} of the outputs; a string tensor is an array of bytes with dtype
            object.

        Raises:
            SavedModelError: an argument is invalid, or the run fails.
        """
        until = None if seconds is None else time.monotonic() + seconds
        if signature == "serving_default":
            return {OUTPUT: self._run(inputs[INPUT], until)}
        if signature not in self.signatures:
            raise SavedModelError(f"signature={signature!r}: no such signature")
        read = self._frame.run("decode", seconds, **inputs)
        probabilities = self._run(read[INPUT], until)
        return self._frame.run("rank", probabilities=probabilities, ok=read["ok"])

    def _run(self, images: np.ndarray, until: float | None) -> np.ndarray:
        if self._has_ended or (until is not None and time.monotonic() > until):
            raise SavedModelError("not run, since its time is over")
        try:
            return np.array(self._compute(images.astype("f4")), "f4")
        except Exception as error:  # each runtime has its own exceptions
            raise SavedModelError(brief(error)) from error

    def end(self) -> None:
        """Ends the current runs when the runtime returns, and refuses new ones."""
        self._has_ended = True
        self._frame.end()

    def close(self) -> None:
        """Frees the runtime and the frame; further calls have no effect."""
        self._has_ended = True
        self._frame.close()
        self.__dict__.pop("_compute", None)


def _named(side: dict[str, Spec]) -> Side:
    return {key: (f"{key}:0", dtype, shape) for key, (dtype, shape) in side.items()}
