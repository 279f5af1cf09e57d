"""The random crops of training, of which no more than the window is decoded."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_resnet.data.transforms.decode import (
    check_size,
    decode_image,
    ends_whole,
    has_magic,
    mark_cmyk,
)
from keras_resnet.data.transforms.erasing import random_erase
from keras_resnet.data.transforms.randaugment import rand_augment
from keras_resnet.data.transforms.resize import resize_as_pillow

_TRIES = 10  # crops are drawn, before the largest middle one is taken


def load_train(
    data: tf.Tensor, recipe: Any, crop: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Encoded bytes, or pixels -> a random crop, resized: uint8 [S, S, 3].

    arXiv 1812.01187 section 2.1, step 2; then RandAugment and random erasing.

    Args:
        data: string, a whole file, or uint8 [H, W, 3].
        recipe: a Recipe.
        crop: the result of `draw_crops` for one picture.
        seed: int64 pair; the same crop and seed give the same pixels.
    """
    image = _random_crop(data, recipe, crop)
    size = recipe.train_size
    if recipe.train_antialias:
        image = resize_as_pillow(image, size, size, recipe.train_interpolation)
    else:
        image = tf.cast(image, tf.float32)  # twice as fast as of uint8
        image = tf.image.resize(image, [size, size], recipe.train_interpolation)
        if recipe.train_interpolation == "bicubic":
            image = tf.clip_by_value(image, 0.0, 255.0)
        image = tf.cast(image + 0.5, tf.uint8)
    if recipe.rand_augment or recipe.erasing:
        image = _augment(image, recipe, seed)
    return tf.ensure_shape(image, [size, size, 3])


def _augment(image: tf.Tensor, recipe: Any, seed: tf.Tensor) -> tf.Tensor:
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    if recipe.rand_augment:
        strength = recipe.rand_augment, recipe.rand_augment_ops, recipe.rand_augment_std
        image = rand_augment(image, seeds[0], *strength)
    return random_erase(image, seeds[1], recipe.erasing) if recipe.erasing else image


def _random_crop(data: tf.Tensor, recipe: Any, crop: tf.Tensor) -> tf.Tensor:
    """A window of the picture, the only part of a JPEG that is decoded."""

    # not inlined, as operations of a branch that is not taken cost time too
    @tf.function(experimental_attributes={"_noinline": True})
    def decode_then_crop(data: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
        image = decode_image(data)
        window = random_window(tf.shape(image)[:2], recipe, crop)
        top, left, height, width = tf.unstack(window)
        return image[top : top + height, left : left + width]

    def decode_window() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(data)
        with tf.control_dependencies([check_size(shape[0], shape[1])]):
            window = random_window(shape[:2], recipe, crop)
        return tf.io.decode_and_crop_jpeg(
            mark_cmyk(data, shape[2]), window, 3, dct_method="INTEGER_ACCURATE"
        )

    if data.dtype == tf.uint8:
        return decode_then_crop(data, crop)
    # of a truncated file a window may decode or fail, so that it is decoded whole
    is_jpeg = has_magic(data, "jpeg") & ends_whole(data)
    return tf.cond(is_jpeg, decode_window, lambda: decode_then_crop(data, crop))


def draw_crops(recipe: Any, count: int, seed: Any) -> tf.Tensor:
    """Draws the random numbers of crops, which do not depend on the pictures' sizes.

    As in the code of the paper, ten times: an area U[min_area, 1] of the picture, and
    an aspect U[1 / max_aspect, max_aspect], inverted half of the time. With `scales`,
    once: a square, in proportion to the picture as the train size is to a short side of
    U{scales} (arXiv 1409.1556 section 3.1).

    Args:
        recipe: with min_area and max_aspect, or with scales and train_size.
        count: the number of pictures.
        seed: int64 pair.

    Returns:
        float32 [count, tries + 1, 2]: heights and widths, in units of the square root
        of the picture's area, or with `scales` of its short side; and last the place of
        the crop in the free space, top and left, in [0, 1).
    """
    tries = 1 if recipe.scales else _TRIES
    draws = tf.random.stateless_uniform([3 * tries + 2, count], seed, alg="philox")
    areas, aspects, turns = tf.unstack(tf.reshape(draws[:-2], [3, tries, count]))
    if recipe.scales:
        low, high = recipe.scales
        heights = widths = recipe.train_size / tf.floor(low + areas * (high - low + 1))
    else:
        low = 1 / recipe.max_aspect
        roots = tf.sqrt(low + aspects * (recipe.max_aspect - low))
        roots = tf.where(turns < 0.5, roots, 1 / roots)
        sides = tf.sqrt(recipe.min_area + areas * (1 - recipe.min_area))
        heights, widths = sides / roots, sides * roots
    heights = tf.concat([heights, draws[-2:-1]], 0)
    widths = tf.concat([widths, draws[-1:]], 0)
    return tf.transpose(tf.stack([heights, widths]), [2, 1, 0])


def random_window(shape: tf.Tensor, recipe: Any, crop: tf.Tensor) -> tf.Tensor:
    """The window of a crop in a picture: int32 [4], top, left, height and width.

    It has the first of the drawn sizes that fits, or else is the largest window in the
    middle whose aspect the recipe allows.

    Args:
        shape: int32 [2], height and width in pixels.
        recipe: with scales and max_aspect.
        crop: float32 [tries + 1, 2], of `draw_crops`.
    """
    sides = tf.cast(shape, tf.float32)
    unit = tf.reduce_min(sides) if recipe.scales else tf.sqrt(tf.reduce_prod(sides))
    extents = tf.cast(tf.round(crop[:-1] * unit), tf.int32)
    fits = tf.reduce_all((extents > 0) & (extents <= shape), 1)
    first = tf.argmax(tf.cast(fits, tf.int32))
    found = tf.gather(fits, first)
    largest = tf.cast(tf.reverse(sides, [0]) * recipe.max_aspect, tf.int32)
    largest = tf.maximum(tf.minimum(shape, largest), 1)
    extent = tf.where(found, tf.gather(extents, first), largest)
    free = tf.cast(shape - extent + 1, tf.float32)
    corner = tf.cast(tf.where(found, crop[-1], 0.5) * free, tf.int32)
    return tf.concat([corner, extent], 0)
