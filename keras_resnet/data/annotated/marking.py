"""Draws boxes and masks on images."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from keras_resnet.data.transforms.letterbox import IGNORED

_OPACITY = 0.5  # of a mask


def mark(
    image: np.ndarray, answer: Mapping[str, Any], class_names: Sequence[str]
) -> np.ndarray:
    """Draws boxes with their classes, or a colored mask, on a copy of an image.

    Args:
        image: uint8 [H, W, 3].
        answer: {"boxes": [n, 4], (left, top, right, bottom) in pixels, "labels": [n],
            where -1 is no box, and perhaps "confidence": [n]}; or {"mask": [H, W]}, of
            which 0 and 255 stay without color.
        class_names: of the numbers, in order.

    Returns:
        uint8 [H, W, 3].
    """
    if "mask" in answer:
        return _tinted(image, np.asarray(answer["mask"]), len(class_names))
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    thick = max(1, round(min(image.shape[:2]) / 200))
    confidence = answer.get("confidence", [None] * len(answer["labels"]))
    for box, label, share in zip(answer["boxes"], answer["labels"], confidence):
        if label < 0:
            continue
        color = color_of(int(label), len(class_names))
        left, top, right, bottom = (float(side) for side in box)
        # the last pixel within the box
        corner = max(right - 1, left), max(bottom - 1, top)
        draw.rectangle((left, top, *corner), outline=color, width=thick)
        text = class_names[int(label)] + ("" if share is None else f" {share:.0%}")
        # Pillow's own font has no other letters
        text = text.encode("latin-1", "replace").decode("latin-1")
        place = left + thick, max(top - 11, 0)
        draw.rectangle(draw.textbbox(place, text), fill=color)
        draw.text(place, text, fill=(255, 255, 255))
    return np.asarray(canvas)


def palette(classes: int) -> list[int]:
    """The colors of a mask's PNG file: three numbers for each of 256 classes."""
    colors = [(0, 0, 0), *(color_of(it, classes) for it in range(1, 255)), (255,) * 3]
    return [value for color in colors for value in color]


def color_of(number: int, classes: int) -> tuple[int, ...]:
    """The color of a class: hues apart, and dark enough for white text."""
    hue = number / max(classes, 1) % 1
    return tuple(round(200 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0))


def _tinted(image: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    colors = np.asarray(palette(classes), np.float32).reshape(256, 3)[mask]
    shown = ((mask != 0) & (mask != IGNORED))[..., None] * _OPACITY
    return (image * (1 - shown) + colors * shown + 0.5).astype(np.uint8)
