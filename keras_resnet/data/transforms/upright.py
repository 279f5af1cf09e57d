"""Rotates images by their EXIF orientation, and composites alpha over a background."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.transforms.decode import check_size, decode_image, picture_size
from keras_resnet.errors import DataError

_FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]
_ORIENTATION = 0x0112  # the EXIF tag


def read_header(data: bytes) -> dict[str, Any]:
    """Reads the header of an image file with Pillow, without decoding pixels.

    Returns:
        {"mode": Pillow's mode, "exif": orientation from 1 to 8 or None, "alpha":
        whether the image has alpha}; all None if Pillow cannot read the header.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            exif = Image.Exif()
            # image.getexif would decode a PNG, to read the chunks after its pixels
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(_ORIENTATION)
            known = isinstance(orientation, int) and 1 <= orientation <= 8
            alpha = image.mode.endswith(("A", "a")) or "transparency" in image.info
            return {
                "mode": image.mode,
                "exif": orientation if known else None,
                "alpha": alpha,
            }
    except Exception:  # damaged files raise exceptions of many classes
        return {"mode": None, "exif": None, "alpha": None}


def parse_colour(background: str) -> tuple[int, ...]:
    """Parses an opaque color such as "white" or "#ffffff" to RGB in [0, 255].

    Raises:
        DataError: Pillow does not know the color, or it has alpha.
    """
    from PIL import ImageColor

    try:
        colour: tuple[int, ...] = ImageColor.getrgb(background)
    except ValueError:
        colour = ()
    if len(colour) != 3:
        raise DataError(
            f"background={background!r}: must be an opaque color, such as white or "
            "#ffffff"
        )
    return colour


def amend(data: tf.Tensor, upright: bool, background: str) -> tf.Tensor:
    """Rotates an image file by its EXIF orientation, or composites its alpha.

    Args:
        data: scalar string tensor, the content of an image file.
        upright: whether to apply the EXIF orientation, as Pillow's exif_transpose.
        background: a color to composite images with alpha over, as Pillow's
            alpha_composite; "" leaves alpha alone.

    Returns:
        Scalar string tensor: a PNG of the changed image, or `data` if nothing changed.

    Raises:
        DataError: `background` is not an opaque color.
        tf.errors.InvalidArgumentError: an image that has to be changed is damaged, or
            an image is too large.
    """
    colour = parse_colour(background) if background else None

    def inspect(data: bytes) -> tuple[np.int32, np.bool_]:
        header = read_header(data)
        orientation = header["exif"] if upright and header["exif"] else 1
        return np.int32(orientation), np.bool_(colour and header["alpha"])

    def amended() -> tf.Tensor:
        image = decode_image(data)  # raises an error for a damaged image
        image = tf.numpy_function(
            finish, [data, image, orientation, alpha], tf.uint8, stateful=False
        )
        return tf.io.encode_png(tf.ensure_shape(image, [None, None, 3]))

    def finish(
        data: bytes, image: np.ndarray, orientation: int, alpha: bool
    ) -> np.ndarray:
        if alpha:
            image = _composite(colour, data, image)
        return _turn(image, int(orientation))

    with tf.control_dependencies([check_size(*picture_size(data))]):
        orientation, alpha = tf.numpy_function(
            inspect, [data], (tf.int32, tf.bool), stateful=False
        )
    orientation, alpha = tf.ensure_shape(orientation, []), tf.ensure_shape(alpha, [])
    return tf.cond((orientation > 1) | alpha, amended, lambda: data)


def _composite(
    colour: tuple[int, ...] | None, data: bytes, image: np.ndarray
) -> np.ndarray:
    """Composites an image file over a color; returns `image` if Pillow cannot read it.

    Args:
        colour: RGB in [0, 255].
        data: the content of the image file.
        image: uint8 [H, W, 3], its pixels without alpha.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            above = picture.convert("RGBA")
    except Exception:  # damaged files raise exceptions of many classes
        return image
    below = Image.new("RGBA", above.size, colour)
    return np.asarray(Image.alpha_composite(below, above).convert("RGB"))


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates and mirrors uint8 [H, W, 3] pixels by an EXIF orientation from 1 to 8."""
    from PIL import Image, ImageOps

    picture = Image.fromarray(image)
    picture.getexif()[_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))
