"""Pictures as they were meant: turned by their EXIF, and over a background."""

from __future__ import annotations

import functools
import io

import numpy as np
import tensorflow as tf

from keras_resnet.data.transforms.decode import check_size, decode_image, picture_size
from keras_resnet.errors import DataError

_FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]
_ORIENTATION = 0x0112  # of EXIF


def read_header(data: bytes) -> dict:
    """What Pillow reads without decoding: mode, EXIF orientation 1 to 8, and alpha.

    Each is None where it cannot.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            exif = Image.Exif()
            # not image.getexif, which decodes a PNG to look behind its pixels
            exif.load(image.info.get("exif", b""))
            turn = exif.get(_ORIENTATION)
            known = isinstance(turn, int) and 1 <= turn <= 8
            alpha = image.mode.endswith(("A", "a")) or "transparency" in image.info
            return {
                "mode": image.mode,
                "exif": turn if known else None,
                "alpha": alpha,
            }
    except Exception:  # of as many classes as there are ways to be damaged
        return {"mode": None, "exif": None, "alpha": None}


def parse_colour(background: str) -> tuple[int, ...]:
    """RGB of "white" or "#ffffff"; a DataError for what is no colour of Pillow's."""
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


def amend(data, upright: bool, background: str):
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

    def inspect(data):
        header = read_header(data)
        orientation = header["exif"] if upright and header["exif"] else 1
        return np.int32(orientation), np.bool_(colour and header["alpha"])

    def amended():
        image = decode_image(data)  # which refuses what is too large or damaged
        image = tf.cond(alpha, lambda: flattened(image), lambda: image)
        return tf.io.encode_png(turn(image, orientation))

    def flattened(image):
        over = functools.partial(_composite, colour)
        flat = tf.numpy_function(over, [data, image], tf.uint8, stateful=False)
        return tf.ensure_shape(flat, [None, None, 3])

    with tf.control_dependencies([check_size(*picture_size(data))]):
        orientation, alpha = tf.numpy_function(
            inspect, [data], (tf.int32, tf.bool), stateful=False
        )
    orientation, alpha = tf.ensure_shape(orientation, []), tf.ensure_shape(alpha, [])
    return tf.cond((orientation > 1) | alpha, amended, lambda: data)


def _composite(colour, data, image):
    """uint8 [H, W, 3] over a colour; `image` where Pillow cannot decode it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            above = picture.convert("RGBA")
    except Exception:  # of as many classes as there are ways to be damaged
        return image
    below = Image.new("RGBA", above.size, colour)
    return np.asarray(Image.alpha_composite(below, above).convert("RGB"))


def turn(image, orientation):
    """uint8 [H, W, 3] as its EXIF orientation, int32 from 1 to 8, says it is meant."""

    def among(*orientations):
        return tf.reduce_any(orientation == tf.constant(orientations))

    swapped = tf.cond(
        orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image
    )
    mirrored = tf.cond(
        among(2, 3, 6, 7), lambda: tf.reverse(swapped, [1]), lambda: swapped
    )
    return tf.cond(
        among(3, 4, 7, 8), lambda: tf.reverse(mirrored, [0]), lambda: mirrored
    )
