"""Encoded bytes -> RGB pixels, in a graph too, with the size checked before decoding."""

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
    return tf.equal(tf.strings.substr(data, 0, len(magic)), magic)


def picture_size(data):
    """(height, width) int32 that the header announces; (0, 0) where it cannot be read."""
    unreadable = (tf.constant(0), tf.constant(0))

    def jpeg():
        shape = tf.image.extract_jpeg_shape(data)
        return shape[0], shape[1]

    def png():
        return _number(data, 20, 4, big=True), _number(data, 16, 4, big=True)

    def gif():
        return _number(data, 8, 2), _number(data, 6, 2)

    def bmp():  # a negative height means rows from the top
        return tf.abs(_number(data, 22, 4)), _number(data, 18, 4)

    def webp():
        def lossy():
            return _number(data, 28, 2) & 0x3FFF, _number(data, 26, 2) & 0x3FFF

        def lossless():
            bits = _number(data, 21, 4)
            return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1

        def extended():
            return _number(data, 27, 3) + 1, _number(data, 24, 3) + 1

        return tf.case(
            [
                (tf.equal(tf.strings.substr(data, 12, 4), b"VP8 "), lossy),
                (tf.equal(tf.strings.substr(data, 12, 4), b"VP8L"), lossless),
                (tf.equal(tf.strings.substr(data, 12, 4), b"VP8X"), extended),
            ],
            default=lambda: unreadable,
        )

    sizes = {"png": png, "gif": gif, "bmp": bmp, "webp": webp}
    long_enough = tf.strings.length(data) >= 32
    return tf.case(
        [(has_magic(data, "jpeg"), jpeg)]
        + [(has_magic(data, name) & long_enough, size) for name, size in sizes.items()],
        default=lambda: unreadable,
    )


def _number(data, start, length, big=False):
    """An unsigned number of at most 4 bytes in the string, as int32 (large: negative)."""
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(data, start, length), "uint8"),
                     tf.int32)
    powers = range(length - 1, -1, -1) if big else range(length)
    return tf.reduce_sum(digits * tf.constant([1 << (8 * p) if p < 3 else 1 << 24
                                               for p in powers]))


def _check_size(height, width, max_pixels):
    sides = tf.stack([height, width])
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    fits = tf.reduce_all(sides > 0) & (pixels <= max_pixels)
    return tf.debugging.Assert(
        fits,
        ["not a readable picture, or more than", max_pixels, "pixels; size:", sides],
    )
