"""Encoded bytes -> RGB pixels, in a graph too, with the size checked first."""

import numpy as np
import tensorflow as tf

from keras_resnet.data.transforms.gif import first_frame

MAX_PIXELS = 89_478_485  # Pillow's own limit for a picture that nobody vouches for

# first bytes -> format; WebP is "RIFF....WEBP"
MAGIC = {
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF8",
    "bmp": b"BM",
    "webp": b"RIFF",
}
LONGEST_MAGIC = 12
_HEADER = 30  # bytes in which all but JPEG and GIF have their size
_POWERS = 256 ** np.arange(4)
_ADOBE = b"\xff\xee\x00\x0eAdobe" + bytes([0, 100, 0, 0, 0, 0, 0])  # not YCCK


def sniff(head):
    """The format that a file's first 12 bytes announce, or None."""
    for name, magic in MAGIC.items():
        if head.startswith(magic) and (name != "webp" or head[8:12] == b"WEBP"):
            return name
    return None


def decode_image(data, max_pixels=MAX_PIXELS):
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP picture.

    Args:
        data: scalar string tensor, a whole file. Its format is read from its first
            bytes, never from a name. Or uint8 [H, W, 3] pixels, which it gives back.
        max_pixels: a picture whose header says more is refused before it is decoded.

    Returns:
        uint8 [H, W, 3] RGB. JPEGs decode to Pillow's very pixels. Alpha is dropped, 16
        bits keep their high byte, and EXIF orientation is ignored, as timm and
        torchvision do.

    Raises:
        tf.errors.InvalidArgumentError: not such a picture, damaged, or too large.
    """
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tf.ensure_shape(data, [None, None, 3])

    def jpeg():
        shape = tf.image.extract_jpeg_shape(data)
        with tf.control_dependencies([check_size(shape[0], shape[1], max_pixels)]):
            marked = mark_cmyk(data, shape[2])
            # libjpeg's default, and so Pillow's; TensorFlow's is another
            return tf.io.decode_jpeg(marked, 3, dct_method="INTEGER_ACCURATE")

    def other():
        height, width = _size_of_others(data)
        with tf.control_dependencies([check_size(height, width, max_pixels)]):
            is_gif = has_magic(data, "gif")
            still = tf.cond(is_gif, lambda: first_frame(data)[0], lambda: data)
            return tf.cond(
                _is_webp_with_alpha(data),
                # the decoder gives it in four channels alone
                lambda: tf.io.decode_image(still, 4, expand_animations=False)[..., :3],
                lambda: tf.io.decode_image(still, 3, expand_animations=False),
            )

    image = tf.cond(has_magic(data, "jpeg"), jpeg, other)
    return tf.ensure_shape(image, [None, None, 3])


def has_magic(data, name):
    """Whether the bytes begin as this format's do; pixels are of none."""
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tf.constant(False)
    magic = MAGIC[name]
    # substr refuses a start beyond the end, not a length
    return tf.equal(tf.strings.substr(data, 0, len(magic)), magic)


def ends_whole(data):
    """Whether the bytes end as a whole JPEG does; false if anything follows it."""
    start = tf.maximum(tf.strings.length(data) - 2, 0)
    return tf.equal(tf.strings.substr(data, start, 2), b"\xff\xd9")


def mark_cmyk(data, channels):
    """A JPEG of four channels gets Adobe's marker, before its own if it has one.

    Without the marker TensorFlow does not take the inks for inverted, as all programs
    write them and Pillow reads them.
    """

    def marked():
        return b"\xff\xd8" + _ADOBE + tf.strings.substr(data, 2, 2**31 - 1)

    return tf.cond(channels == 4, marked, lambda: data)


def picture_size(data):
    """(height, width) int32 that the header announces, (0, 0) where it has none."""
    data = tf.convert_to_tensor(data)
    if data.dtype == tf.uint8:
        return tuple(tf.unstack(tf.shape(data)[:2]))
    return tf.cond(
        has_magic(data, "jpeg"),
        lambda: tuple(tf.unstack(tf.image.extract_jpeg_shape(data)[:2])),
        lambda: _size_of_others(data),
    )


def _is_webp_with_alpha(data):
    """Whether it is one that stands still: of a moving one TensorFlow breaks memory."""
    header, digits = _read_header(data)
    kind = tf.where(has_magic(data, "webp"), tf.strings.substr(header, 12, 4), "")
    flags = digits[20]
    alpha, moving = flags // 16 % 2 == 1, flags // 2 % 2 == 1
    return ((kind == b"VP8X") & alpha & ~moving) | (
        (kind == b"VP8L") & (digits[24] // 16 % 2 == 1)
    )


def _read_header(data):
    """The first bytes, as a string and as int64."""
    # zeros after a header that is cut: the decoders will complain
    padded = tf.strings.substr(data, 0, _HEADER) + b"\0" * _HEADER
    header = tf.strings.substr(padded, 0, _HEADER)
    return header, tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)


def _size_of_others(data):
    header, digits = _read_header(data)

    def number(start, length):
        return tf.reduce_sum(digits[start : start + length] * _POWERS[:length])

    def big(start):
        return tf.reduce_sum(digits[start : start + 4] * _POWERS[::-1])

    webp = tf.where(has_magic(data, "webp"), tf.strings.substr(header, 12, 4), "")
    down, lossless = number(22, 4), number(21, 4)
    gif = has_magic(data, "gif")
    none = tf.zeros([], tf.int64)
    cases = [
        (gif, tf.cond(gif, lambda: first_frame(data)[1:], lambda: (none, none))),
        (has_magic(data, "png"), (big(20), big(16))),
        # a negative height means rows from the top
        (has_magic(data, "bmp"), (tf.minimum(down, 2**32 - down), number(18, 4))),
        (webp == b"VP8 ", (number(28, 2) % 2**14, number(26, 2) % 2**14)),
        (webp == b"VP8L", (lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1)),
        (webp == b"VP8X", (number(27, 3) + 1, number(24, 3) + 1)),
    ]
    height = sum(tf.where(matches, size[0], 0) for matches, size in cases)
    width = sum(tf.where(matches, size[1], 0) for matches, size in cases)
    # beyond int32 no decoder goes
    most = tf.int32.max
    return (
        tf.cast(tf.minimum(height, most), tf.int32),
        tf.cast(tf.minimum(width, most), tf.int32),
    )


def check_size(height, width, max_pixels=MAX_PIXELS):
    """An assertion that there is a picture, and that it has no more pixels."""
    sides = tf.stack([height, width])
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    fits = tf.reduce_all(sides > 0) & (pixels <= max_pixels)
    return tf.debugging.Assert(
        fits,
        ["no picture, or of more than", max_pixels, "pixels; height and width:", sides],
    )
