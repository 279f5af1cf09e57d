"""Images of a report, as a model sees them, with their heat maps by Grad-CAM."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_resnet.data import Source, blame_pictures, eval_batches
from keras_resnet.errors import Error
from keras_resnet.explain import grad_cam
from keras_resnet.report.contents import where

_BATCH = 16  # images that are in memory at once
_SMALL = 64  # pixels, to which JPEG would do harm
_CELLS = 4  # a side, that the output of a layer must have to tell places apart
_OPACITY = 0.6  # of a heat map, as of `keras-resnet explain`


class Shown(NamedTuple):
    """An image of a report; the pictures are data URIs."""

    where: str
    truth: str
    predicted: str
    confidence: float
    picture: str
    heat: str  # the picture under the heat map of the predicted class; "" without


def show(
    model: Any, source: Source, answers: Any, numbers: Iterable[int]
) -> tuple[dict[int, Shown], str]:
    """Decodes validation images again, and computes what spoke for each answer.

    Args:
        model: the classifier.
        source: the data.
        answers: an Answers of its validation images.
        numbers: the images to show.

    Returns:
        {number: Shown}, and why there are no heat maps, or "".
    """
    chosen, names = np.array(sorted(numbers), int), source.class_names
    shown: dict[int, Shown] = {}
    problem, layer = "", _layer(model.info)
    few = dataclasses.replace(source, val=source.split("val").take(chosen))
    rest = iter(chosen.tolist())
    with blame_pictures(few, ("val",)):
        batches = eval_batches(few, model.info.protocol, "val", _BATCH)
        for images, _ in batches if len(chosen) else ():
            images = images.numpy()
            part = [next(rest) for _ in images]
            heats: Any = [None] * len(part)
            try:
                if not problem:
                    heats = grad_cam(model, images, answers.predicted[part], layer)
            except Error as error:
                problem = f"There are no heat maps: {error}"
            for number, image, heat in zip(part, images, heats):
                shown[number] = Shown(
                    where(source, "val", number),
                    names[answers.truth[number]],
                    names[answers.predicted[number]],
                    float(answers.confidence[number]),
                    _uri(image),
                    "" if heat is None else _uri(_heated(image, heat)),
                )
    return shown, problem


def _layer(info: Any) -> str:
    """The last stage whose output tells places apart; of other nets the last layer."""
    if info.config is None:
        return "stage4"
    side, most = info.protocol.size, info.config.output_stride
    stages = range(1, 1 + len(info.config.depths))
    fine = [it for it in stages if side >= _CELLS * min(2 ** (it + 1), most)]
    return f"stage{max(fine, default=1)}"


def _heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image, uint8 [H, W, 3], under its heat map, [H, W] in [0, 1]."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](heat)[..., :3] * 255
    return np.round((1 - _OPACITY) * image + _OPACITY * colours).astype(np.uint8)


def _uri(image: np.ndarray) -> str:
    """Pixels, uint8 [H, W, 3], as a data URI of a PNG or JPEG file."""
    kind = "png" if max(image.shape) <= _SMALL else "jpeg"
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
