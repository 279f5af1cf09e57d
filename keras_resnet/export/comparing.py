"""Compares an exported model with its source on real images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data import load_square
from keras_resnet.errors import ModelError
from keras_resnet.evaluate import views
from keras_resnet.evaluate.prediction import load_picture
from keras_resnet.info import Protocol

PHOTOGRAPH = "grace_hopper.jpg"  # 512 x 606 pixels, part of matplotlib's wheel
# {precision: the largest |p - p'| that is accepted}. For comparison, the differences
# that were measured on 360 held-out digits and the photograph:
# - resnet18d-digits, and a resnet50d trained on digits for 6 epochs: at most 1.4e-6 in
#   float32 in every format, 1.9e-2 in bfloat16 and 2.9e-2 in int8;
# - a resnet50d with random weights, and a classifier scaled up to tell its nearly equal
#   features apart: 1.2e-4, 0.48 and 0.71. This net is refused, as it should be, because
#   rounding errors dominate its probabilities.
TOLERANCES = {"float32": 5e-5, "bfloat16": 0.05, "int8": 0.1}
_BATCH = 16  # images per batch, to bound memory for a long list of files


def photographs(
    protocol: Protocol, files: Sequence[str | os.PathLike[str]] = ()
) -> np.ndarray:
    """Returns real images, cropped to the model's input size, uint8 [N, S, S, 3].

    Args:
        protocol: the test protocol of the model.
        files: image files, which are cropped as in evaluation. Without files, the
            result is the ten crops of a photograph that comes with matplotlib.

    Raises:
        DataError: a file is missing or is not an image; the message names it.
        ModelError: the installed matplotlib does not include the photograph.
    """
    if files:
        return np.stack([load_picture(file, protocol) for file in files])
    data = tf.io.read_file(os.fsencode(_photograph()))
    return views.load_ten_crops(data, protocol).numpy()


def squares(
    protocol: Protocol, files: Sequence[str | os.PathLike[str]] = ()
) -> tuple[np.ndarray, ...]:
    """The same for detectors and segmenters: what `data.load_square` makes.

    Without files, it is of the photograph as a whole.
    """
    loaded = [
        load_picture(it, protocol, load_square) for it in files or [_photograph()]
    ]
    return tuple(np.stack(parts) for parts in zip(*loaded))


def _photograph() -> str:
    from matplotlib.cbook import get_sample_data

    path = get_sample_data(PHOTOGRAPH, asfileobj=False)
    if not os.path.isfile(path):  # some Linux distributions leave it out
        raise ModelError(
            f"{path}: the installed matplotlib lacks it; give pictures instead"
        )
    return path


def difference(engine: Any, model: Any, images: np.ndarray) -> float:
    """Returns the largest |p - p'| between the probabilities of two models.

    The result is NaN if any probability is NaN.

    Args:
        engine: the exported model, an `Engine` or a Keras model.
        model: the model that it was exported from.
        images: [N, S, S, 3] in [0, 255], with N at least 1.
    """
    largest = [
        np.abs(
            views.predict_probabilities(engine, batch)
            - views.predict_probabilities(model, batch)
        ).max()
        for batch in np.split(images, range(_BATCH, len(images), _BATCH))
    ]
    return float(np.max(largest))


def check(engine: Any, model: Any, images: np.ndarray) -> float:
    """Returns the `difference`.

    Raises:
        ModelError: it exceeds the tolerance of the engine's precision.
    """
    found, allowed = difference(engine, model, images), TOLERANCES[engine.precision]
    if not found <= allowed:  # not `found > allowed`, which NaN would pass
        raise ModelError(
            f"{engine.name}: its probabilities are off by {found:.1e} on {len(images)} "
            f"pictures, more than the {allowed:.0e} of {engine.precision}; do not use "
            "it; choose another format or precision, and report this"
        )
    return found
