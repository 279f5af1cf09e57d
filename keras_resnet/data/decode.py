"""Encoded bytes -> RGB pixels, in a graph too, with the size checked first."""

import tensorflow as tf

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
            bytes, never from a name.
        max_pixels: a picture whose header says more is refused before it is decoded.

    Returns:
        uint8 [H, W, 3] RGB. JPEGs decode to Pillow's very pixels. Alpha is dropped, and
        EXIF orientation is ignored, as timm and torchvision do.

    Raises:
        tf.errors.InvalidArgumentError: not such a picture, damaged, or too large.
    """
    data = tf.convert_to_tensor(data)
    is_jpeg = has_magic(data, "jpeg")
    height, width = picture_size(data)
    with tf.control_dependencies([_check_size(height, width, max_pixels)]):
        data = tf.identity(data)
    image = tf.cond(
        is_jpeg,
        # INTEGER_ACCURATE is libjpeg's default, and so Pillow's; TensorFlow's is not
        lambda: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, 3, expand_animations=False),
    )
    return tf.ensure_shape(image, [None, None, 3])


def has_magic(data, name):
    """Whether the bytes begin as this format's do."""
    magic = MAGIC[name]
    # substr refuses a start beyond the end, not a length
    return tf.equal(tf.strings.substr(data, 0, len(magic)), magic)


def picture_size(data):
    """(height, width) int32 that the header announces, (0, 0) where it has none."""

    def jpeg():
        shape = tf.cast(tf.image.extract_jpeg_shape(data), tf.int64)
        return shape[0], shape[1]

    def png():
        return _number(data, 20, 4, big=True), _number(data, 16, 4, big=True)

    def gif():
        return _number(data, 8, 2), _number(data, 6, 2)

    def bmp():  # a negative height means rows from the top
        height = _number(data, 22, 4)
        return tf.minimum(height, 2**32 - height), _number(data, 18, 4)

    def webp_lossy():
        return _number(data, 28, 2) % 2**14, _number(data, 26, 2) % 2**14

    def webp_lossless():
        bits = _number(data, 21, 4)
        return bits // 2**14 % 2**14 + 1, bits % 2**14 + 1

    def webp_extended():
        return _number(data, 27, 3) + 1, _number(data, 24, 3) + 1

    webp = tf.strings.substr(data + b"\0" * 16, 12, 4)
    cases = [
        (has_magic(data, "png"), png),
        (has_magic(data, "gif"), gif),
        (has_magic(data, "bmp"), bmp),
        (has_magic(data, "webp") & (webp == b"VP8 "), webp_lossy),
        (has_magic(data, "webp") & (webp == b"VP8L"), webp_lossless),
        (has_magic(data, "webp") & (webp == b"VP8X"), webp_extended),
    ]
    long_enough = tf.strings.length(data) >= 30
    height, width = tf.case(
        [(has_magic(data, "jpeg"), jpeg)]
        + [(matches & long_enough, size) for matches, size in cases],
        default=lambda: (tf.zeros([], tf.int64), tf.zeros([], tf.int64)),
    )
    # beyond int32 no decoder goes
    most = tf.int32.max
    return (
        tf.cast(tf.minimum(height, most), tf.int32),
        tf.cast(tf.minimum(width, most), tf.int32),
    )


def _number(data, start, length, big=False):
    """An unsigned number in the string, as int64."""
    digits = tf.io.decode_raw(tf.strings.substr(data, start, length), tf.uint8)
    powers = range(length - 1, -1, -1) if big else range(length)
    weights = tf.constant([256**power for power in powers], tf.int64)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * weights)


def _check_size(height, width, max_pixels):
    sides = tf.stack([height, width])
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    fits = tf.reduce_all(sides > 0) & (pixels <= max_pixels)
    return tf.debugging.Assert(
        fits,
        ["no picture, or of more than", max_pixels, "pixels; height and width:", sides],
    )
