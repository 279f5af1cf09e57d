"""RandAugment, with Pillow's operations.

Operations are chosen and scaled as in timm's "rand-m9-n2-mstd0.5-inc1" and similar
configurations (`auto_augment.py` of timm 1.0.31).
"""

from __future__ import annotations

import functools

import tensorflow as tf

from keras_resnet.data.transforms import affine
from keras_resnet.data.transforms.affine import MAX_LEVEL, places, signed, within


def rand_augment(
    image: tf.Tensor, seed: tf.Tensor, magnitude: float, ops: int = 2, std: float = 0.0
) -> tf.Tensor:
    """Applies random operations to an image (arXiv 1909.13719), as timm does.

    One of the 15 OPERATIONS is drawn `ops` times, and applied with probability 0.5.

    Args:
        image: uint8 [H, W, 3].
        seed: int64 pair; the same seed gives the same pixels.
        magnitude: the mean level of an operation, in (0, 10].
        ops: the number of operations drawn, at least 1.
        std: the standard deviation of the level, which has a normal distribution and is
            clipped to [0, 10].

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: magnitude, ops or std is out of range.
    """
    if not 0 < magnitude <= MAX_LEVEL:
        raise ValueError(f"magnitude={magnitude}: must be in (0, {MAX_LEVEL}]")
    if not ops >= 1:
        raise ValueError(f"ops={ops}: must be 1 or more")
    if not std >= 0:
        raise ValueError(f"std={std}: must be 0 or more")
    image = tf.convert_to_tensor(image, tf.uint8)

    def apply(image: tf.Tensor, draw: tuple[tf.Tensor, ...]) -> tf.Tensor:
        operation, is_applied, level, sign = draw
        branches = [
            functools.partial(operate, image, level, sign)
            for operate in (*OPERATIONS.values(), _identity)
        ]
        result = tf.switch_case(
            tf.where(is_applied, operation, len(OPERATIONS)), branches
        )
        return tf.ensure_shape(result, image.shape)

    return tf.foldl(apply, _draw(seed, magnitude, ops, std), image)


def _draw(
    seed: tf.Tensor, magnitude: float, ops: int, std: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws indices in OPERATIONS, whether to apply them, levels, and signs (1 or -1).

    Levels and signs are float64, so that truncating them gives the same integers as
    Python's floats.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    draws = tf.random.stateless_uniform([3, ops], seeds[0])
    operations = tf.cast(draws[0] * len(OPERATIONS), tf.int32)
    noise = tf.random.stateless_normal([ops], seeds[1], stddev=std, dtype=tf.float64)
    levels = tf.clip_by_value(magnitude + noise, 0.0, MAX_LEVEL)
    signs = tf.where(draws[2] < 0.5, tf.constant(1.0, tf.float64), -1.0)
    return operations, draws[1] < 0.5, levels, signs


def _identity(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return tf.identity(image)


def _auto_contrast(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    return _to_uint8(tf.cast(image, tf.float64) * scale + offset)


def _equalize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.int32)
    channels = tf.transpose(tf.reshape(values, [-1, 3]))
    counts = tf.math.bincount(channels, minlength=256, maxlength=256, axis=-1)
    brightest = tf.gather(counts, tf.reduce_max(channels, 1), batch_dims=1)
    step = (tf.reduce_sum(counts, 1) - brightest)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    # a channel with few pixels or a single value is left unchanged
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
    return tf.gather(tf.reshape(table, [-1]), values + tf.constant([0, 256, 512]))


def _invert(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return 255 - image


def _posterize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    dropped = 4 + tf.cast(level / MAX_LEVEL * 4, tf.int32)  # bits, from 4 to all 8
    mask = 256 - tf.bitwise.left_shift(1, dropped)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def _solarize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    threshold = 256 - tf.cast(level / MAX_LEVEL * 256, tf.int32)
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def _solarize_add(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    more = tf.cast(level / MAX_LEVEL * 110, tf.uint8)
    return tf.where(image < 128, image + more, image)


def _color(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return _enhance(image, _gray(image), level, sign)


def _contrast(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    # the sum is exact in float64
    mean = tf.reduce_mean(tf.cast(_gray(image), tf.float64))
    return _enhance(image, tf.cast(tf.floor(mean + 0.5), tf.float32), level, sign)


def _brightness(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return _enhance(image, 0.0, level, sign)


def _sharpness(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(image, tf.float32)
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[..., None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(pixels[None], kernel, [1, 1, 1, 1], "SAME")[0]
    height, width, v, u = places(image)
    inside = within(v - 1, u - 1, height - 2, width - 2)  # Pillow keeps the border
    smooth = tf.where(inside, tf.floor(smooth + 0.5), pixels)
    return _enhance(image, smooth, level, sign)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Pillow's gray image, float32 [H, W, 1] with integer values."""
    # the weights are in units of 1 / 2**16; sums are below 2**24, and so exact
    weights = tf.constant([[19595.0], [38470.0], [7471.0]])
    luma = tf.tensordot(tf.cast(image, tf.float32), weights, 1)
    return tf.floor((luma + 2**15) / 2**16)


def _enhance(
    image: tf.Tensor, plain: tf.Tensor, level: tf.Tensor, sign: tf.Tensor
) -> tf.Tensor:
    """Pillow's ImageEnhance: plain + factor * (image - plain), factor in [0.1, 1.9]."""
    factor = tf.cast(1 + signed(0.9, level, sign), tf.float32)
    return _to_uint8(plain + factor * (tf.cast(image, tf.float32) - plain))


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Clips and truncates, as Pillow does."""
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)


# timm's "increasing" set, as functions (image, level in [0, 10], sign) -> image
OPERATIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": affine.rotate,
    "PosterizeIncreasing": _posterize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _color,
    "ContrastIncreasing": _contrast,
    "BrightnessIncreasing": _brightness,
    "SharpnessIncreasing": _sharpness,
    "ShearX": affine.shear_x,
    "ShearY": affine.shear_y,
    "TranslateXRel": affine.translate_x,
    "TranslateYRel": affine.translate_y,
}
