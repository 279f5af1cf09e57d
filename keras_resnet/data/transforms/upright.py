"""Pictures turned by their EXIF orientation, and composited over a background."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.transforms.decode import check_size, decode_image, picture_size
from keras_resnet.errors import DataError

_FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]
_ORIENTATION = 0x0112  # of EXIF


def read_header(data: bytes) -> dict[str, Any]:
    """A picture's "mode", "exif" (orientation, 1 to 8) and "alpha", without decoding.

    Each is None where Pillow cannot read it.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            exif = Image.Exif()
            # not image.getexif, which decodes a PNG to look behind its pixels
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(_ORIENTATION)
            known = isinstance(orientation, int) and 1 <= orientation <= 8
            alpha = image.mode.endswith(("A", "a")) or "transparency" in image.info
            return {
                "mode": image.mode,
                "exif": orientation if known else None,
                "alpha": alpha,
            }
    except Exception:  # of as many classes as there are ways to be damaged
        return {"mode": None, "exif": None, "alpha": None}


def parse_colour(background: str) -> tuple[int, ...]:
    """RGB of "white" or "#ffffff"; a DataError where Pillow knows no such colour."""
    from PIL import ImageColor

    try:
        colour: tuple[int, ...] = ImageColor.getrgb(background)
    except ValueError:
        colour = ()
    if len(colour) != 3:
        raise DataError(
            f"background={background!r}: must be an opaque colour, as white or #ffffff"
        )
    return colour


def amend(data: tf.Tensor, upright: bool, background: str) -> tf.Tensor:
    """The same bytes, or a PNG of what was turned or composited, in a graph.

    Args:
        data: scalar string tensor, a whole file.
        upright: turns by the EXIF orientation, as Pillow's exif_transpose.
        background: a colour that alpha is composited over, as Pillow's alpha_composite;
            "" leaves it to be dropped.

    Raises:
        tf.errors.InvalidArgumentError: a picture that is to be amended is damaged.
    """
    colour = parse_colour(background) if background else None

    def inspect(data: bytes) -> tuple[np.int32, np.bool_]:
        header = read_header(data)
        orientation = header["exif"] if upright and header["exif"] else 1
        return np.int32(orientation), np.bool_(colour and header["alpha"])

    def amended() -> tf.Tensor:
        image = decode_image(data)  # it refuses what is too large or damaged
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
    """uint8 [H, W, 3] over a colour; `image` where Pillow cannot decode it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            above = picture.convert("RGBA")
    except Exception:  # of as many classes as there are ways to be damaged
        return image
    below = Image.new("RGBA", above.size, colour)
    return np.asarray(Image.alpha_composite(below, above).convert("RGB"))


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """uint8 [H, W, 3] turned and mirrored by its EXIF orientation, 1 to 8."""
    from PIL import Image, ImageOps

    picture = Image.fromarray(image)
    picture.getexif()[_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))
