"""Compares an exported model with its source, on real pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.errors import ModelError
from keras_resnet.evaluate import views
from keras_resnet.evaluate.prediction import load_picture
from keras_resnet.info import Protocol

PHOTOGRAPH = "grace_hopper.jpg"  # 512 x 606 pixels, in matplotlib's wheel
# precision: the largest |p - p'| that passes. Measured on 360 held-out digits and the
# photograph, with resnet18d-digits and a resnet50d trained on digits for 6 epochs:
# float32 1.4e-6 in every format; bfloat16 1.9e-2, int8 2.9e-2. With a resnet50d of
# random weights whose head is stretched over what little its features differ: float32
# 1.2e-4, bfloat16 0.48, int8 0.71. Such a net is refused: it is all rounding.
TOLERANCES = {"float32": 5e-5, "bfloat16": 0.05, "int8": 0.1}
_BATCH = 16  # images at a time: a list of files may be long


def photographs(
    protocol: Protocol, files: Sequence[str | os.PathLike[str]] = ()
) -> np.ndarray:
    """Real pictures as a model sees them, uint8 [N, S, S, 3].

    Args:
        protocol: the model's.
        files: pictures, cropped as evaluation does; without any, the ten crops of a
            photograph that comes with matplotlib.

    Raises:
        DataError: naming a file that is missing or no picture.
        ModelError: matplotlib has no photograph.
    """
    if files:
        return np.stack([load_picture(file, protocol) for file in files])
    from matplotlib.cbook import get_sample_data

    path = get_sample_data(PHOTOGRAPH, asfileobj=False)
    if not os.path.isfile(path):  # some distributions leave it out
        raise ModelError(f"{path}: matplotlib came without it; give pictures instead")
    return views.load_ten_crops(tf.io.read_file(os.fsencode(path)), protocol).numpy()


def difference(engine: Any, model: Any, images: np.ndarray) -> float:
    """The largest |p - p'| of two models' probabilities; NaN where either has one.

    Args:
        engine: of `engines.open_engine`, or a model.
        model: what it was written from.
        images: [N, S, S, 3] in [0, 255], N at least 1.
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
    """`difference`, or a ModelError if it is more than the precision's tolerance."""
    found, allowed = difference(engine, model, images), TOLERANCES[engine.precision]
    if not found <= allowed:  # NaN is not
        raise ModelError(
            f"{engine.name}: its probabilities are off by {found:.1e} on {len(images)} "
            f"pictures, more than the {allowed:.0e} of {engine.precision}; do not use "
            "it; choose another format or precision, and report this"
        )
    return found
