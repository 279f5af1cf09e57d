"""Pixels -> the square that the model sees: the evaluation and the training crop."""

import math

import tensorflow as tf

from keras_resnet.data.decode import decode_image, has_magic, picture_size

INTERPOLATIONS = ("bicubic", "bilinear")


def eval_crop(image, size=224, crop_pct=0.875, interpolation="bicubic"):
    """Resizes the short side to size / crop_pct, crops the middle: as Pillow and timm.

    Args:
        image: uint8 [H, W, 3].
        size: side of the result, in pixels.
        crop_pct: the result's side over the resized short side, in (0, 1].
        interpolation: "bicubic" or "bilinear", both antialiased.

    Returns:
        uint8 [size, size, 3], within 1 level of what torchvision's Resize and
        CenterCrop give on a Pillow picture.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}: must be in (0, 1]")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation={interpolation!r}: must be one of {INTERPOLATIONS}"
        )
    short = math.floor(size / crop_pct)
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    new_height = tf.where(width < height, short * height // width, short)
    new_width = tf.where(width < height, short, short * width // height)
    image = _resize_as_pillow(image, new_height, new_width, interpolation)
    # Python's round of a half goes to the even number, and so torchvision's crop
    top = tf.cast(tf.round((new_height - size) / 2), tf.int32)
    left = tf.cast(tf.round((new_width - size) / 2), tf.int32)
    image = image[top : top + size, left : left + size]
    return tf.ensure_shape(image, [size, size, 3])


def _resize_as_pillow(image, height, width, interpolation):
    """Two 1-D passes, columns then rows, each rounded and clipped to 8 bits."""
    for shape in ((tf.shape(image)[0], width), (height, width)):
        resized = tf.image.resize(image, shape, interpolation, antialias=True)
        image = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return image


def load_eval(data, protocol):
    """Encoded bytes -> the picture that evaluation, prediction and serving all see."""
    return eval_crop(
        decode_image(data), protocol.size, protocol.crop_pct, protocol.interpolation
    )


def load_train(data, recipe, seed):
    """Encoded bytes -> a random crop, flip and colour: float32 [S, S, 3] in [0, 255].

    arXiv 1812.01187 section 2.1. `seed` is an int64 pair; the same seed gives the same
    picture.
    """
    crop_seed, flip_seed, colour_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 3)
    )
    image = _random_crop(data, recipe, crop_seed)
    image = tf.image.resize(
        image, [recipe.train_size] * 2, recipe.train_interpolation, antialias=True
    )
    image = tf.clip_by_value(image, 0.0, 255.0)
    if recipe.flip:
        flipped = tf.random.stateless_uniform([], flip_seed) < recipe.flip
        image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
    if recipe.colour or recipe.lighting:
        image = _distort_colour(image, recipe, colour_seed)
    return tf.ensure_shape(image, [recipe.train_size, recipe.train_size, 3])


def _random_crop(data, recipe, seed):
    """A rectangle of random area and aspect; of a JPEG only that is decoded."""
    height, width = picture_size(data)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        aspect_ratio_range=(1 / recipe.max_aspect, recipe.max_aspect),
        area_range=(recipe.min_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)

    def fused():
        return tf.io.decode_and_crop_jpeg(
            data, window, 3, dct_method="INTEGER_ACCURATE"
        )

    def whole():
        return tf.slice(decode_image(data), begin, tf.concat([extent[:2], [3]], 0))

    return tf.cond(has_magic(data, "jpeg"), fused, whole)


# columns: R, G, B; rows: Y, I, Q (NTSC)
_TO_YIQ = tf.constant(
    [
        [0.299, 0.587, 0.114],
        [0.59590059, -0.27455667, -0.32134392],
        [0.21153661, -0.52273617, 0.31119955],
    ]
)
# eigenvalues and vectors of ImageNet's RGB covariance, in 0-255 pixels (AlexNet, 4.1)
_EIGENVALUES = tf.constant([55.46, 4.794, 1.148])
_EIGENVECTORS = tf.constant(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


def _distort_colour(image, recipe, seed):
    """Hue, saturation, brightness and PCA noise as one affine map of RGB."""
    factor_seed, noise_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2)
    )
    factors = tf.random.stateless_uniform(
        [3], factor_seed, 1 - recipe.colour, 1 + recipe.colour
    )
    # the paper's factor f on hue: the half circle times f - 1, 72 degrees at 1.4
    angle = math.pi * (factors[0] - 1)
    cos, sin = factors[1] * tf.cos(angle), factors[1] * tf.sin(angle)
    zero, one = tf.zeros([]), tf.ones([])
    turn = tf.stack([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]])
    matrix = factors[2] * tf.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    noise = tf.random.stateless_normal([3], noise_seed, stddev=recipe.lighting)
    offset = tf.linalg.matvec(_EIGENVECTORS, noise * _EIGENVALUES)
    image = tf.tensordot(image, matrix, [[2], [1]]) + offset
    return tf.clip_by_value(image, 0.0, 255.0)
