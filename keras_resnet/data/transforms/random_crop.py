"""Random crops for training; of a JPEG, only the crop is decoded, perhaps smaller."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_resnet.data.transforms.decode import (
    DCT,
    at_scale,
    check_size,
    decode_image,
    ends_whole,
    has_magic,
    mark_cmyk,
    on_call,
)
from keras_resnet.data.transforms.erasing import random_erase
from keras_resnet.data.transforms.randaugment import rand_augment
from keras_resnet.data.transforms.resize import resize_as_pillow

_TRIES = 10  # random crops to try before falling back to the center crop


def load_train(
    data: tf.Tensor, recipe: Any, crop: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Decodes, crops and resizes an image for training.

    The crop is step 2 of arXiv 1812.01187 section 2.1. RandAugment and random erasing
    follow if the recipe uses them.

    Args:
        data: scalar string, the content of an image file; or pixels, uint8 [H, W, 3].
        recipe: a Recipe.
        crop: float32 [tries + 1, 2], the result of `draw_crops` for this image.
        seed: int64 pair; the same crop and seed give the same pixels.

    Returns:
        uint8 [S, S, 3], where S is the recipe's train_size.
    """
    image = _random_crop(data, recipe, crop)
    size = recipe.train_size
    if recipe.train_antialias:
        image = resize_as_pillow(image, size, size, recipe.train_interpolation)
    else:
        image = tf.cast(image, tf.float32)  # resizing float32 is twice as fast as uint8
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
    """The part of the image that the crop selects; of a JPEG, only this is decoded."""

    # the operations of an inlined branch take time even if it is not executed
    @on_call
    def decode_then_crop(data: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
        image = decode_image(data)
        window = random_window(tf.shape(image)[:2], recipe, crop)
        top, left, height, width = tf.unstack(window)
        return image[top : top + height, left : left + width]

    def decode_window() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(data)
        with tf.control_dependencies([check_size(shape[0], shape[1])]):
            window = random_window(shape[:2], recipe, crop)
        marked = mark_cmyk(data, shape[2])
        if not recipe.scaled_decode:
            return _decode_crop(marked, window)
        return tf.cond(
            tf.reduce_min(window[2:]) < 2 * recipe.train_size,
            lambda: _decode_crop(marked, window),
            lambda: decode_smaller(marked, window),
        )

    @on_call
    def decode_smaller(data: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        times = tf.reduce_min(window[2:]) // recipe.train_size
        return at_scale(lambda ratio: _decode_crop(data, window, ratio), times)

    if data.dtype == tf.uint8:
        return decode_then_crop(data, crop)
    # a truncated file is decoded as a whole, so that it fails for every crop
    is_jpeg = has_magic(data, "jpeg") & ends_whole(data)
    return tf.cond(is_jpeg, decode_window, lambda: decode_then_crop(data, crop))


def _decode_crop(data: tf.Tensor, window: tf.Tensor, ratio: int = 1) -> tf.Tensor:
    """Decodes a window of a JPEG at 1 / ratio of its size.

    Args:
        data: scalar string.
        window: int32 [4], top, left, height and width in pixels of the whole image.
        ratio: 1, 2, 4 or 8.

    Returns:
        uint8 [h, w, 3]. The edges of the window are rounded to the smaller pixels, so
        that h and w are at least height // ratio and width // ratio.
    """
    if ratio > 1:  # decode_and_crop_jpeg takes a window of the smaller image
        edges = tf.stack([window[:2], window[:2] + window[2:]])
        edges = (2 * edges + ratio) // (2 * ratio)
        window = tf.concat([edges[0], edges[1] - edges[0]], 0)
    return tf.io.decode_and_crop_jpeg(data, window, 3, ratio=ratio, dct_method=DCT)


def draw_crops(recipe: Any, count: int, seed: Any) -> tf.Tensor:
    """Draws the random numbers of crops, which do not depend on the images' sizes.

    As in the paper's code, ten sizes are drawn for each image: the area is
    U[min_area, 1] of the image's area, and the aspect ratio U[1 / max_aspect,
    max_aspect], inverted with probability 0.5. With `scales`, one square is drawn, as
    if the short side had been resized to U{scales} pixels and train_size pixels were
    cropped (arXiv 1409.1556 section 3.1).

    Args:
        recipe: an object with the fields scales, and min_area and max_aspect or
            train_size.
        count: the number of images.
        seed: int64 pair.

    Returns:
        float32 [count, tries + 1, 2]. The first entries are heights and widths, in
        units of the square root of the image's area or, with `scales`, of its short
        side. The last entry is the position of the crop (vertical, horizontal) as a
        fraction of the free space, in [0, 1).
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
    """Returns the window of a crop in an image.

    It has the first drawn size that fits into the image. If none fits, it is the
    largest centered window with an aspect ratio that the recipe allows.

    Args:
        shape: int32 [2], the image's height and width in pixels.
        recipe: an object with the fields scales and max_aspect.
        crop: float32 [tries + 1, 2], the result of `draw_crops` for this image.

    Returns:
        int32 [4]: top, left, height and width in pixels.
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
