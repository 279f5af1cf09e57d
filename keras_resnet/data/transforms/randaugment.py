"""RandAugment and random erasing: one picture and a seed -> another picture.

The operations are Pillow's; what is drawn, and how strong it is, is that of timm's
"rand-m9-n2-mstd0.5-inc1" and the like (`auto_augment.py` of timm 1.0.31).
"""

import functools
import math

import tensorflow as tf

MAX_LEVEL = 10
FILL = (124, 116, 104)  # ImageNet's mean colour: where a moved picture leaves nothing
ERASED_AREA = (0.02, 1 / 3)  # of the picture's
ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width


def rand_augment(image, seed, magnitude, ops=2, std=0.0):
    """Applies operations drawn at random: arXiv 1909.13719, as timm.

    `ops` times one of the 15 OPERATIONS is drawn, and applied with probability 0.5.

    Args:
        image: uint8 [H, W, 3].
        seed: int64 pair; the same seed gives the same picture.
        magnitude: mean level of an operation, in (0, 10].
        ops: how many are drawn, from 1 on.
        std: deviation of the level, which is normal and then clipped to [0, 10].

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: magnitude, ops or std out of range.
    """
    if not 0 < magnitude <= MAX_LEVEL:
        raise ValueError(f"magnitude={magnitude}: must be in (0, {MAX_LEVEL}]")
    if not ops >= 1:
        raise ValueError(f"ops={ops}: must be 1 or more")
    if not std >= 0:
        raise ValueError(f"std={std}: must be 0 or more")
    image = tf.convert_to_tensor(image, tf.uint8)

    def apply(image, drawn):
        operation, applied, level, sign = drawn
        branches = [
            functools.partial(operate, image, level, sign)
            for operate in (*OPERATIONS.values(), _leave)
        ]
        result = tf.switch_case(tf.where(applied, operation, len(OPERATIONS)), branches)
        return tf.ensure_shape(result, image.shape)

    return tf.foldl(apply, _draw(seed, magnitude, ops, std), image)


def _draw(seed, magnitude, ops, std):
    """What to do, each [ops]: position in OPERATIONS, applied, level, sign (1 or -1).

    Level and sign are float64, as in Python: their integer parts are the same there.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    draws = tf.random.stateless_uniform([3, ops], seeds[0])
    operations = tf.cast(draws[0] * len(OPERATIONS), tf.int32)
    noise = tf.random.stateless_normal([ops], seeds[1], stddev=std, dtype=tf.float64)
    levels = tf.clip_by_value(magnitude + noise, 0.0, MAX_LEVEL)
    signs = tf.where(draws[2] < 0.5, tf.constant(1.0, tf.float64), -1.0)
    return operations, draws[1] < 0.5, levels, signs


def _leave(image, level, sign):
    return tf.identity(image)


def _auto_contrast(image, level, sign):
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    return _to_uint8(tf.cast(image, tf.float64) * scale + offset)


def _equalize(image, level, sign):
    values = tf.cast(image, tf.int32)
    channels = tf.transpose(tf.reshape(values, [-1, 3]))
    counts = tf.math.bincount(channels, minlength=256, maxlength=256, axis=-1)
    brightest = tf.gather(counts, tf.reduce_max(channels, 1), batch_dims=1)
    step = (tf.reduce_sum(counts, 1) - brightest)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    # a channel of few pixels, or of one value, stays
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
    return tf.gather(tf.reshape(table, [-1]), values + tf.constant([0, 256, 512]))


def _invert(image, level, sign):
    return 255 - image


def _posterize(image, level, sign):
    dropped = 4 + tf.cast(level / MAX_LEVEL * 4, tf.int32)  # bits: all at the top level
    mask = 256 - tf.bitwise.left_shift(1, dropped)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def _solarize(image, level, sign):
    threshold = 256 - tf.cast(level / MAX_LEVEL * 256, tf.int32)
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def _solarize_add(image, level, sign):
    more = tf.cast(level / MAX_LEVEL * 110, tf.uint8)
    return tf.where(image < 128, image + more, image)


def _color(image, level, sign):
    return _enhance(image, _grey(image), level, sign)


def _contrast(image, level, sign):
    # in float64 the sum of any picture is exact
    mean = tf.reduce_mean(tf.cast(_grey(image), tf.float64))
    return _enhance(image, tf.cast(tf.floor(mean + 0.5), tf.float32), level, sign)


def _brightness(image, level, sign):
    return _enhance(image, 0.0, level, sign)


def _sharpness(image, level, sign):
    pixels = tf.cast(image, tf.float32)
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[..., None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(pixels[None], kernel, [1, 1, 1, 1], "SAME")[0]
    height, width, v, u = _places(image)
    inside = _within(v - 1, u - 1, height - 2, width - 2)  # Pillow leaves the rim alone
    smooth = tf.where(inside, tf.floor(smooth + 0.5), pixels)
    return _enhance(image, smooth, level, sign)


def _grey(image):
    """float32 [H, W, 1], whole numbers: Pillow's luma in 16 bits of fixed point."""
    weights = tf.constant([[19595.0], [38470.0], [7471.0]])
    luma = tf.tensordot(tf.cast(image, tf.float32), weights, 1)  # below 2**24: exact
    return tf.floor((luma + 2**15) / 2**16)


def _enhance(image, plain, level, sign):
    """Away from the plain picture or towards it, by up to 0.9: Pillow's blend."""
    factor = tf.cast(1 + _signed(0.9, level, sign), tf.float32)
    return _to_uint8(plain + factor * (tf.cast(image, tf.float32) - plain))


def _to_uint8(pixels):
    """Clips and truncates, as Pillow does."""
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)


def _rotate(image, level, sign):
    angle = _signed(math.radians(30), level, sign)  # counter-clockwise
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width, _, _ = _places(image)
    y, x = height / 2, width / 2  # stays where it is
    c, f = x - cos * x + sin * y, y - sin * x - cos * y
    return _move(image, cos, -sin, c, sin, cos, f)


def _shear_x(image, level, sign):
    return _move(image, b=_signed(0.3, level, sign))


def _shear_y(image, level, sign):
    return _move(image, d=_signed(0.3, level, sign))


def _translate_x(image, level, sign):
    _, width, _, _ = _places(image)
    return _move(image, c=_signed(0.45, level, sign) * width)


def _translate_y(image, level, sign):
    height, _, _, _ = _places(image)
    return _move(image, f=_signed(0.45, level, sign) * height)


def _signed(most, level, sign):
    return sign * (level / MAX_LEVEL * most)


def _move(image, a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0):
    """Pillow's `transform(AFFINE, (a, b, c, d, e, f), BILINEAR)`, filled with FILL.

    The result shows at (u, v) what is at x = a u + b v + c, y = d u + e v + f.
    """
    # Pillow's first pixel reaches from 0 to 1, TensorFlow's from -0.5 to 0.5
    c, f = c + (a + b - 1) / 2, f + (d + e - 1) / 2
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=[[tf.cast(x, tf.float32) for x in (a, b, c, d, e, f, 0, 0)]],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",  # of use in the outer half of the outermost pixels
    )[0]
    height, width, v, u = _places(image)
    y, x = d * u + e * v + f, a * u + b * v + c
    # Pillow truncates; between 77 and 77 a rounding error is not to make 76
    moved = tf.cast(moved + 1e-3, tf.uint8)
    return tf.where(_within(y + 0.5, x + 0.5, height, width), moved, FILL)


def _places(image):
    """(H, W, rows [H, 1], columns [1, W]), float64 all."""
    sides = tf.cast(tf.shape(image), tf.float64)
    return sides[0], sides[1], tf.range(sides[0])[:, None], tf.range(sides[1])[None]


def _within(y, x, height, width):
    """bool [H, W, 1]: which points lie in the rectangle from (0, 0) on."""
    return ((y >= 0) & (y < height) & (x >= 0) & (x < width))[..., None]


# f(image, level, sign), level in [0, 10]: timm's "increasing" set
OPERATIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "PosterizeIncreasing": _posterize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _color,
    "ContrastIncreasing": _contrast,
    "BrightnessIncreasing": _brightness,
    "SharpnessIncreasing": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}


def random_erase(image, seed, probability):
    """Fills a random rectangle with random pixels: arXiv 1708.04896, RE-R.

    Args:
        image: uint8 [H, W, 3].
        seed: int64 pair; the same seed gives the same picture.
        probability: of erasing at all, in [0, 1].

    Returns:
        uint8 [H, W, 3]: one rectangle, of an area uniform in ERASED_AREA and an aspect
        log-uniform in ERASED_ASPECT, is of independent uniform values. Unchanged if 10
        such rectangles do not fit.

    Raises:
        ValueError: probability out of range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: must be in [0, 1]")
    image = tf.convert_to_tensor(image, tf.uint8)
    seeds = tf.random.experimental.stateless_split(seed, 3)

    def erase():
        _, _, v, u = _places(image)
        top, left, height, width = _rectangle(tf.shape(image), seeds[1])
        noise = tf.random.stateless_uniform(
            tf.shape(image)[:2], seeds[2], None, None, tf.uint32
        )
        noise = tf.bitcast(noise, tf.uint8)[..., :3]  # three bytes of four
        return tf.where(_within(v - top, u - left, height, width), noise, image)

    erased = tf.random.stateless_uniform([], seeds[0]) < probability
    return tf.ensure_shape(tf.cond(erased, erase, lambda: image), image.shape)


def _rectangle(shape, seed, tries=10):
    """(top, left, height, width) of the first that fits, or zeros; whole float64."""
    low, high = zip(ERASED_AREA, map(math.log, ERASED_ASPECT), (0, 1), (0, 1))
    draws = tf.random.stateless_uniform([tries, 4], seed, low, high, tf.float64)
    sides = tf.cast(shape[:2], tf.float64)
    area, aspect = tf.reduce_prod(sides) * draws[:, 0], tf.exp(draws[:, 1])
    sizes = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect], 1)))
    corners = tf.floor(draws[:, 2:] * (sides - sizes + 1))
    fits = tf.reduce_all(sizes < sides, 1, keepdims=True)
    boxes = tf.where(fits, tf.concat([corners, sizes], 1), 0.0)
    return tf.unstack(boxes[tf.argmax(tf.cast(fits[:, 0], tf.int32))])
