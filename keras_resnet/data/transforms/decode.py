"""Decodes image files to RGB pixels with graph operations, checking the size first."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_resnet.data.transforms.gif import first_frame

MAX_PIXELS = 89_478_485  # Pillow's limit, above which it warns of decompression bombs

# the first bytes of each format; in WebP, "WEBP" follows 4 bytes after "RIFF"
MAGIC = {
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF8",
    "bmp": b"BM",
    "webp": b"RIFF",
}
LONGEST_MAGIC = 12
DCT = "INTEGER_ACCURATE"  # the default of libjpeg and Pillow, but not of TensorFlow
_RATIOS = (1, 2, 4, 8)  # by which libjpeg can shrink an image while it decodes
_HEADER = 30  # the size is in the first 30 bytes, except in JPEG and GIF
_POWERS = 256 ** np.arange(4)
# the Adobe segment with transform 0: CMYK, not YCCK
_ADOBE = b"\xff\xee\x00\x0eAdobe" + bytes([0, 100, 0, 0, 0, 0, 0])


def sniff(head: bytes) -> str | None:
    """The format of a file according to its first 12 bytes, or None."""
    for name, magic in MAGIC.items():
        if head.startswith(magic) and (name != "webp" or head[8:12] == b"WEBP"):
            return name
    return None


def decode_image(
    data: tf.Tensor | bytes,
    max_pixels: int = MAX_PIXELS,
    least: tf.Tensor | int | None = None,
) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP image.

    Args:
        data: scalar string tensor, the content of a file, whose format is detected from
            its first bytes; or uint8 [H, W, 3] pixels, which are returned unchanged.
        max_pixels: the most pixels allowed, checked in the header before decoding.
        least: the pixels that the short side of a JPEG keeps at least, so that it may
            be decoded at 1/2, 1/4 or 1/8 of its size; None decodes it in full.

    Returns:
        uint8 [H, W, 3] RGB; for JPEGs, exactly the pixels that Pillow decodes. Alpha is
        dropped, 16-bit channels are reduced to their high byte, and EXIF orientation is
        ignored, as in timm and torchvision.

    Raises:
        tf.errors.InvalidArgumentError: the format is another one, the file is damaged,
            or the image is too large.
    """
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tf.ensure_shape(data, [None, None, 3])

    def jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(data)
        with tf.control_dependencies([check_size(shape[0], shape[1], max_pixels)]):
            marked = mark_cmyk(data, shape[2])

        def decode(ratio: int) -> tf.Tensor:
            return tf.io.decode_jpeg(marked, 3, ratio, dct_method=DCT)

        if least is None:
            return decode(1)
        return at_scale(decode, tf.reduce_min(shape[:2]) // least)

    is_jpeg = has_magic(data, "jpeg")
    image = tf.cond(is_jpeg, jpeg, lambda: _decode_other(data, max_pixels))
    return tf.ensure_shape(image, [None, None, 3])


# An iterator prepares all operations of its functions when it starts, but those of a
# function that is not inlined only when it is called, and most images are JPEGs.
on_call = functools.partial(
    tf.function, autograph=False, experimental_attributes={"_noinline": True}
)
_first_frame = on_call(first_frame)


@on_call(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)])
def _decode_other(data: tf.Tensor, max_pixels: tf.Tensor) -> tf.Tensor:
    """Decodes all but JPEGs, as `decode_image` says."""
    height, width = _size_of_others(data)
    with tf.control_dependencies([check_size(height, width, max_pixels)]):
        is_gif = has_magic(data, "gif")
        still = tf.cond(is_gif, lambda: _first_frame(data)[0], lambda: data)
        return tf.cond(
            _is_webp_with_alpha(data),
            # TensorFlow decodes WebP with alpha only to four channels
            lambda: tf.io.decode_image(still, 4, expand_animations=False)[..., :3],
            lambda: tf.io.decode_image(still, 3, expand_animations=False),
        )


def at_scale(decode: Callable[[int], tf.Tensor], times: tf.Tensor) -> tf.Tensor:
    """decode(ratio) with the largest of 1, 2, 4 and 8 that is not above `times`."""
    larger = tf.reduce_sum(tf.cast(times >= _RATIOS[1:], tf.int32))
    return tf.switch_case(larger, [functools.partial(decode, it) for it in _RATIOS])


def has_magic(data: tf.Tensor | bytes, name: str) -> tf.Tensor:
    """Whether the first bytes are those of the format; false for uint8 pixels."""
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tf.constant(False)
    magic = MAGIC[name]
    # substr allows a length beyond the end, so short data is no error
    return tf.equal(tf.strings.substr(data, 0, len(magic)), magic)


def ends_whole(data: tf.Tensor | bytes) -> tf.Tensor:
    """Whether the last two bytes are the end marker of a JPEG."""
    start = tf.maximum(tf.strings.length(data) - 2, 0)
    return tf.equal(tf.strings.substr(data, start, 2), b"\xff\xd9")


def mark_cmyk(data: tf.Tensor, channels: tf.Tensor) -> tf.Tensor:
    """Inserts the Adobe segment into a JPEG of four channels, before any of its own.

    Programs write CMYK inverted, and Pillow reads it so. TensorFlow inverts CMYK only
    in files with this segment.
    """

    def marked() -> tf.Tensor:
        return b"\xff\xd8" + _ADOBE + tf.strings.substr(data, 2, 2**31 - 1)

    return tf.cond(channels == 4, marked, lambda: data)


def picture_size(data: tf.Tensor | bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads (height, width), int32, from the header; (0, 0) if they are not there."""
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tuple(tf.unstack(tf.shape(data)[:2]))
    return tf.cond(
        has_magic(data, "jpeg"),
        lambda: tuple(tf.unstack(tf.image.extract_jpeg_shape(data)[:2])),
        lambda: _size_of_others(data),
    )


def _is_webp_with_alpha(data: tf.Tensor) -> tf.Tensor:
    """Whether a file is a WebP still image with alpha.

    It is false for an animation, on which TensorFlow's decoder would corrupt memory.
    """
    header, digits = _read_header(data)
    kind = tf.where(has_magic(data, "webp"), tf.strings.substr(header, 12, 4), "")
    flags = digits[20]
    alpha, animated = flags // 16 % 2 == 1, flags // 2 % 2 == 1
    return ((kind == b"VP8X") & alpha & ~animated) | (
        (kind == b"VP8L") & (digits[24] // 16 % 2 == 1)
    )


def _read_header(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first 30 bytes, as a string and as int64 [30]."""
    # a truncated header is padded with zeros here, and fails in the decoder later
    padded = tf.strings.substr(data, 0, _HEADER) + b"\0" * _HEADER
    header = tf.strings.substr(padded, 0, _HEADER)
    return header, tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)


def _size_of_others(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    header, digits = _read_header(data)

    def little(start: int, length: int) -> tf.Tensor:
        return tf.reduce_sum(digits[start : start + length] * _POWERS[:length])

    def big(start: int) -> tf.Tensor:
        return tf.reduce_sum(digits[start : start + 4] * _POWERS[::-1])

    webp = tf.where(has_magic(data, "webp"), tf.strings.substr(header, 12, 4), "")
    down, lossless = little(22, 4), little(21, 4)
    gif = has_magic(data, "gif")
    none = tf.zeros([], tf.int64)
    cases = [
        (gif, tf.cond(gif, lambda: _first_frame(data)[1:], lambda: (none, none))),
        (has_magic(data, "png"), (big(20), big(16))),
        # in BMP, a negative height means that the rows start at the top
        (has_magic(data, "bmp"), (tf.minimum(down, 2**32 - down), little(18, 4))),
        (webp == b"VP8 ", (little(28, 2) % 2**14, little(26, 2) % 2**14)),
        (webp == b"VP8L", (lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1)),
        (webp == b"VP8X", (little(27, 3) + 1, little(24, 3) + 1)),
    ]
    height = sum(tf.where(matches, size[0], 0) for matches, size in cases)
    width = sum(tf.where(matches, size[1], 0) for matches, size in cases)
    sides = tf.minimum(tf.stack([height, width]), tf.int32.max)
    return tuple(tf.unstack(tf.cast(sides, tf.int32)))


def check_size(
    height: tf.Tensor, width: tf.Tensor, max_pixels: tf.Tensor | int = MAX_PIXELS
) -> tf.Operation:
    """Asserts that an image has from 1 to `max_pixels` pixels."""
    sides = tf.stack([height, width])
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    fits = tf.reduce_all(sides > 0) & (pixels <= max_pixels)
    return tf.debugging.Assert(
        fits,
        ["no picture, or of more than", max_pixels, "pixels; height and width:", sides],
    )


def first_sentence(error: tf.errors.OpError) -> str:
    """The cause in an operation's error message, without node names and tracebacks."""
    text = error.message or ""
    if "Summarized data:" in text:  # an eager assertion, which prints a part per line
        parts = text.partition("Summarized data:")[2].strip().split("\n")
        return " ".join(re.sub(r"^b'(.*)'$", r"\1", part) for part in parts)
    if asserted := re.search(r"assertion failed: (\[.*)", text):
        return re.sub(r"\[(.*?)\]", r"\1", asserted[1]).partition("{{")[0].strip()
    # the text before the blank line says where in Python the graph was built
    text = text.strip().rpartition("\n\n")[2]
    text = re.sub(r"\{\{.*?\}\}", "", text).partition(" [Op:")[0]
    return text.strip().partition("\n")[0]
