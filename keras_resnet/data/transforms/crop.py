"""Pixels -> the squares that the model sees: of evaluation, and of training."""

import math

import tensorflow as tf

from keras_resnet.data.transforms.decode import (
    check_size,
    decode_image,
    ends_whole,
    has_magic,
    mark_cmyk,
)
from keras_resnet.data.transforms.randaugment import rand_augment, random_erase
from keras_resnet.data.transforms.resize import resize_as_pillow

_TRIES = 10  # areas, before a crop is given up for the whole picture


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
    height, width = _shrunk(image, short_side(size, crop_pct))
    # Python's round of a half goes to the even number, and so torchvision's crop
    top = tf.cast(tf.round((height - size) / 2), tf.int32)
    left = tf.cast(tf.round((width - size) / 2), tf.int32)
    window = (top, left, size, size)
    return resize_as_pillow(image, height, width, interpolation, window)


def ten_crop(image, size=224, crop_pct=0.875, interpolation="bicubic"):
    """The four corners and the middle, and their mirrors (AlexNet; 1512.03385 sec. 4).

    Args as `eval_crop`'s.

    Returns:
        uint8 [10, size, size, 3]: top left, top right, bottom left, bottom right,
        middle, then the five mirrored, as torchvision's TenCrop.
    """
    height, width = _shrunk(image, short_side(size, crop_pct))
    bottom, right = height - size, width - size
    middle = tf.unstack(tf.cast(tf.round(tf.stack([bottom, right]) / 2), tf.int32))
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    # one by one: the whole of a picture that is a line would not fit in memory
    crops = tf.stack(
        [
            resize_as_pillow(image, height, width, interpolation, (*place, size, size))
            for place in places
        ]
    )
    return tf.concat([crops, tf.reverse(crops, [2])], 0)


def resize_short(image, short, interpolation="bicubic"):
    """The whole picture with a short side of `short` pixels: uint8 [H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: it would have more pixels than may be decoded.
    """
    height, width = _shrunk(image, short)
    with tf.control_dependencies([check_size(height, width)]):
        height = tf.identity(height)
    return resize_as_pillow(image, height, width, interpolation)


def short_side(size, crop_pct):
    """Pixels of the resized short side of which the crop takes `size`."""
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}: must be in (0, 1]")
    return math.floor(size / crop_pct)


def _shrunk(image, short):
    """(height, width) with this short side; the long one is cut to whole pixels."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return (
        tf.where(width < height, short * height // width, short),
        tf.where(width < height, short, short * width // height),
    )


def load_eval(data, protocol):
    """Encoded bytes -> the picture that evaluation, prediction and serving all see."""
    return eval_crop(
        decode_image(data), protocol.size, protocol.crop_pct, protocol.interpolation
    )


def load_train(data, recipe, crop, seed):
    """Encoded bytes, or pixels -> a random crop, resized: uint8 [S, S, 3].

    arXiv 1812.01187 section 2.1, step 2; then the recipe's RandAugment and erasing.

    Args:
        data: string, a whole file, or uint8 [H, W, 3].
        recipe: its augmentation counts.
        crop: of `draw_crops`, for one picture.
        seed: int64 pair; the same crop and seed give the same picture.
    """
    image = _random_crop(data, recipe, crop)
    size = recipe.train_size
    if recipe.train_antialias:
        image = resize_as_pillow(image, size, size, recipe.train_interpolation)
    else:
        image = tf.cast(image, tf.float32)  # of uint8 the operation is half as fast
        image = tf.image.resize(image, [size, size], recipe.train_interpolation)
        if recipe.train_interpolation == "bicubic":
            image = tf.clip_by_value(image, 0.0, 255.0)
        image = tf.cast(image + 0.5, tf.uint8)
    if recipe.rand_augment or recipe.erasing:
        image = _augment(image, recipe, seed)
    return tf.ensure_shape(image, [size, size, 3])


def _augment(image, recipe, seed):
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    if recipe.rand_augment:
        strength = recipe.rand_augment, recipe.rand_augment_ops, recipe.rand_augment_std
        image = rand_augment(image, seeds[0], *strength)
    return random_erase(image, seeds[1], recipe.erasing) if recipe.erasing else image


def _random_crop(data, recipe, crop):
    """A window of the picture; of a JPEG no more than that is decoded."""

    # not inlined: the operations of a branch that is not taken cost time too
    @tf.function(experimental_attributes={"_noinline": True})
    def whole(data, crop):
        image = decode_image(data)
        window = random_window(tf.shape(image)[:2], recipe, crop)
        top, left, height, width = tf.unstack(window)
        return image[top : top + height, left : left + width]

    def fused():
        shape = tf.image.extract_jpeg_shape(data)
        with tf.control_dependencies([check_size(shape[0], shape[1])]):
            window = random_window(shape[:2], recipe, crop)
        return tf.io.decode_and_crop_jpeg(
            mark_cmyk(data, shape[2]), window, 3, dct_method="INTEGER_ACCURATE"
        )

    if data.dtype == tf.uint8:
        return whole(data, crop)
    # a file that is cut would pass or fail by where the crop ends
    is_jpeg = has_magic(data, "jpeg") & ends_whole(data)
    return tf.cond(is_jpeg, fused, lambda: whole(data, crop))


def draw_crops(recipe, count, seed):
    """What is random about the crops of so many pictures, whatever their sizes.

    As the code behind the paper: an area U[min_area, 1] of the picture, an aspect
    U[1 / max_aspect, max_aspect] turned over half of the time, ten times. With
    `scales`, once, a square that is to the picture what the train size is to a short
    side of U{scales} (1409.1556 section 3.1).

    Args:
        recipe: its min_area and max_aspect, or its scales and train_size.
        count: pictures.
        seed: int64 pair.

    Returns:
        float32 [count, tries + 1, 2]: heights and widths, over the root of the
        picture's area, or with `scales` over its short side; and last where the crop
        lies in what is free, top and left, in [0, 1).
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


def random_window(shape, recipe, crop):
    """Where a crop lies in a picture: int32 [4], top, left, height, width.

    The first of the sizes drawn that fits; else the largest middle window of an aspect
    that the recipe allows.

    Args:
        shape: int32 [2], height and width in pixels.
        recipe: its scales and max_aspect.
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
