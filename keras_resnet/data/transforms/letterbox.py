"""Fits whole images into a square, with their boxes or masks."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_resnet.data.transforms.decode import decode_image, picture_size
from keras_resnet.data.transforms.resize import resize_as_pillow

FILL = (124, 116, 104)  # ImageNet's mean color, around the image
IGNORED = 255  # the mask's value where there is no image, and where it has no label
NO_BOX = -1  # the label of rows that fill up
_LEAST_SHARE = 0.1  # of a box's area that a random crop must keep
_LEAST_SIDE = 1.0  # of a box, in pixels

Boxes = dict[str, tf.Tensor]  # "boxes" [M, 4], "labels" [M], as `Boxed` gives them


def letterbox(
    image: tf.Tensor, side: int, interpolation: str = "bilinear"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes an image to fit a square at its top left, keeping its aspect ratio.

    Args:
        image: uint8 [H, W, 3].
        side: of the square, in pixels.
        interpolation: "bilinear" or "bicubic", both antialiased.

    Returns:
        uint8 [side, side, 3], filled up with FILL; and int32 [2], the height and width
        of the resized image within.
    """
    size = _fitting(tf.shape(image)[:2], side)
    resized = resize_as_pillow(image, size[0], size[1], interpolation)
    return _framed(resized, [0, 0], side), size


def load_square(
    data: tf.Tensor, protocol: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes an image and fits it into a square, as a protocol says.

    Returns:
        uint8 [size, size, 3]; int32 [2], the height and width of the resized image
        within; and int32 [2], those of the image in its file.
    """
    shape = _height_and_width(data)
    least = None
    if protocol.scaled_decode:
        least = tf.reduce_min(_fitting(shape, protocol.size))
    image = decode_image(data, least=least)
    square, size = letterbox(image, protocol.size, protocol.interpolation)
    return square, size, shape


def eval_boxes(data: tf.Tensor, target: Boxes, protocol: Any) -> tuple[tf.Tensor, Any]:
    """Decodes an image for evaluation, and moves its boxes along."""
    square, size, before = load_square(data, protocol)
    boxes = target["boxes"] * _factors(before, size)
    return square, {**target, "boxes": boxes}


def eval_mask(
    data: tf.Tensor, mask: tf.Tensor, protocol: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes an image for evaluation, and resizes its mask to the nearest pixels."""
    square, size, before = load_square(data, protocol)
    resized = tf.image.resize(_of_size(mask, before), size, "nearest")
    return square, _framed_mask(resized, [0, 0], protocol.size)


def train_boxes(
    data: tf.Tensor, target: Boxes, recipe: Any, seed: tf.Tensor
) -> tuple[tf.Tensor, Boxes]:
    """Decodes, scales, moves and flips an image and its boxes at random.

    A box of which less than a tenth of the area is left, or less than a pixel, is
    taken out.

    Args:
        data: the content of an image file.
        target: its boxes in its own pixels, with labels of -1 for no box.
        recipe: a Recipe; train_size, scale_jitter and flip are used, and the
            interpolation.
        seed: int64 pair; the same seed gives the same result.

    Returns:
        uint8 [S, S, 3]; and {"boxes", "labels"} of the same shapes as in `target`.
    """
    side, shape = recipe.train_size, _height_and_width(data)
    square, size, corner, flipped = _jittered(data, shape, recipe, seed)
    boxes = target["boxes"] * _factors(shape, size)
    before = _area(boxes)
    boxes += tf.cast(tf.gather(corner, [1, 0, 1, 0]), tf.float32)
    mirrored = tf.stack(
        [side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1
    )
    boxes = tf.where(flipped, mirrored, boxes)
    boxes = tf.clip_by_value(boxes, 0.0, float(side))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (
        (target["labels"] != NO_BOX)
        & tf.reduce_all(sides >= _LEAST_SIDE, 1)
        & (_area(boxes) >= _LEAST_SHARE * before)
    )
    return square, {
        "boxes": tf.where(kept[:, None], boxes, 0.0),
        "labels": tf.where(kept, target["labels"], float(NO_BOX)),
    }


def train_mask(
    data: tf.Tensor, mask: tf.Tensor, recipe: Any, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes, scales, moves and flips an image and its mask at random.

    Returns:
        uint8 [S, S, 3]; and int32 [S, S], IGNORED where there is no image.
    """
    shape = _height_and_width(data)
    square, size, corner, flipped = _jittered(data, shape, recipe, seed)
    mask = tf.image.resize(_of_size(mask, shape), size, "nearest")
    mask = _framed_mask(mask, corner, recipe.train_size)
    return square, tf.where(flipped, mask[:, ::-1], mask)


def _height_and_width(data: tf.Tensor) -> tf.Tensor:
    """int32 [2] of the header; ones if it has none, so that the decoder says why."""
    return tf.maximum(tf.stack(picture_size(data)), 1)


def _jittered(
    data: tf.Tensor, shape: tf.Tensor, recipe: Any, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """A square of an image at a random scale and place, perhaps mirrored.

    Returns:
        uint8 [S, S, 3]; the resized image's size; the place of its top left corner in
        the square, before the square is mirrored; and whether it is.
    """
    side = recipe.train_size
    draws = tf.random.stateless_uniform([4], seed, alg="philox")
    size, corner = _fitting(shape, side), tf.zeros([2], tf.int32)
    if recipe.scale_jitter:
        low, high = recipe.scale_jitter
        factor = low + draws[0] * (high - low)
        scaled = tf.round(tf.cast(size, tf.float32) * factor)
        size = tf.maximum(tf.cast(scaled, tf.int32), 1)
        free = side - size
        steps = tf.floor(draws[1:3] * tf.cast(tf.abs(free) + 1, tf.float32))
        corner = tf.sign(free) * tf.cast(steps, tf.int32)
    image = decode_image(
        data, least=tf.reduce_min(size) if recipe.scaled_decode else None
    )
    if recipe.train_antialias:
        resized = resize_as_pillow(image, size[0], size[1], recipe.train_interpolation)
    else:
        resized = tf.image.resize(image, size, recipe.train_interpolation)
        resized = tf.cast(tf.clip_by_value(resized, 0.0, 255.0) + 0.5, tf.uint8)
    square = _framed(resized, corner, side)
    flipped = draws[3] < recipe.flip
    return tf.where(flipped, square[:, ::-1], square), size, corner, flipped


def _fitting(shape: tf.Tensor, side: int) -> tf.Tensor:
    """The largest (height, width) of the same aspect ratio that fits a square."""
    longest = tf.reduce_max(shape)
    exact = tf.cast(shape, tf.float64) * side / tf.cast(longest, tf.float64)
    return tf.maximum(tf.cast(tf.round(exact), tf.int32), 1)


def _factors(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """The factors of (left, top, right, bottom) from one (height, width) to another."""
    ratio = tf.cast(after, tf.float32) / tf.cast(before, tf.float32)
    return tf.gather(ratio, [1, 0, 1, 0])


def _framed(image: tf.Tensor, corner: Any, side: int) -> tf.Tensor:
    """The part of an image within a square in which its corner lies at `corner`."""
    size = tf.shape(image)[:2]
    inside = _placed(tf.ones([*tf.unstack(size), 1], tf.bool), corner, side)
    return tf.where(inside, _placed(image, corner, side), tf.constant(FILL, tf.uint8))


def _framed_mask(mask: tf.Tensor, corner: Any, side: int) -> tf.Tensor:
    """The same of a mask, uint8 [H, W, 1] -> int32 [side, side]."""
    moved = _placed(tf.cast(mask, tf.int32) - IGNORED, corner, side)  # zeros fill up
    return moved[..., 0] + IGNORED


def _placed(values: tf.Tensor, corner: Any, side: int) -> tf.Tensor:
    corner = tf.convert_to_tensor(corner, tf.int32)
    shown = values[tf.maximum(-corner[0], 0) :, tf.maximum(-corner[1], 0) :]
    before = tf.maximum(corner, 0)
    shown = shown[: side - before[0], : side - before[1]]
    after = side - before - tf.shape(shown)[:2]
    edges = tf.stack([before, after], 1)
    placed = tf.pad(shown, tf.concat([edges, [[0, 0]]], 0))
    return tf.ensure_shape(placed, [side, side, values.shape[-1]])


def _of_size(mask: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """The mask, if it has the height and width of its image."""
    same = tf.reduce_all(shape == tf.shape(mask)[:2])
    check = tf.debugging.Assert(same, ["the mask has another size than the picture"])
    with tf.control_dependencies([check]):
        return tf.identity(mask)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(tf.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), 1)
