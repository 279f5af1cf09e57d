"""Batches of a source: an endless shuffled stream to train on, one pass to evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.sources import SourceLike, open_source
from keras_resnet.data.splits import Split
from keras_resnet.data.transforms.colour import DRAWS, distort
from keras_resnet.data.transforms.crop import load_eval
from keras_resnet.data.transforms.letterbox import (
    eval_boxes,
    eval_mask,
    train_boxes,
    train_mask,
)
from keras_resnet.data.transforms.mix import cutmix, mixup
from keras_resnet.data.transforms.random_crop import draw_crops, load_train
from keras_resnet.errors import DataError

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
PARALLEL = _CORES or os.cpu_count() or 1  # images loaded at the same time
BATCHES = 2  # batches prepared ahead of the one in use
# one stream of random numbers for each purpose, so that no two share a seed
_ORDER, _CROP, _PICTURE, _COLOUR, _MIX, _CHOICE, _CLASS = range(7)

Pair = tuple[tf.Tensor, Any]  # images, and labels, boxes or masks
Slice = tuple[int, int]
"""(index, count): the part of each batch that a process reads, and of how many."""


def steps_per_epoch(source: SourceLike, recipe: Any) -> int:
    """The number of full batches in one pass over the training images."""
    size = open_source(source).split("train").size
    if recipe.batch_size > size:
        raise DataError(
            f"batch_size={recipe.batch_size}: more than the {size} training pictures "
            f"of {open_source(source).path}; choose a smaller batch"
        )
    return size // recipe.batch_size


def train_batches(
    source: SourceLike,
    recipe: Any,
    epoch: int = 0,
    step: int = 0,
    slice_of: Slice | None = None,
) -> tf.data.Dataset:
    """An endless stream of full batches, determined by the seed and the position.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, with seed, batch_size, train_size and augmentation.
        epoch: the epoch to start in. An epoch has `steps_per_epoch` batches; the images
            left over, too few for a batch, are dropped. Each image occurs at most once
            in an epoch; with `repeats=n` it occurs n times in a row, and the epoch has
            1/n as many different images. With `sampling="balanced"` each class has as
            many places in the epoch, and images of rare classes occur several times.
        step: the batch of that epoch to start with; earlier batches are not read.
        slice_of: (index, count), to read only this slice of each batch: the slices of
            all `count` processes make up the batch of (0, 1), with the same draws.
            There the images that mixup or CutMix combines are neighbours; by default
            they are mirrored, image i with image B - 1 - i.

    Yields:
        (images, labels): images [B, S, S, 3] in [0, 255], uint8, or float32 if mixup
        may blend them; labels float32 [B, K], one-hot, several or mixed. For detection
        they are {"boxes": float32 [B, M, 4], "labels": float32 [B, M]}, boxes as (left,
        top, right, bottom) in pixels, with labels of -1 that fill up; for segmentation
        int32 [B, S, S], with 255 for pixels without a label.

    Raises:
        DataError: there is no training split, or it has fewer images than a batch, or
            the batch cannot be divided so.
    """
    source = open_source(source)
    places = None if slice_of is None else _places(recipe, *slice_of)
    split, classes = source.split("train"), len(source.class_names)
    steps = steps_per_epoch(source, recipe)
    size, first = recipe.batch_size, epoch * steps + step
    read = split.reader()
    balance = _balanced(split, recipe) if recipe.sampling == "balanced" else None

    def numbers_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = split.order(_stream(recipe, _ORDER), epoch)
        order = order if balance is None else balance(order, epoch)
        if recipe.repeats > 1:
            distinct = order[: -(-split.size // recipe.repeats)]
            order = tf.repeat(distinct, recipe.repeats)
        return tf.data.Dataset.from_tensor_slices(order).batch(size).take(steps)

    # boxes and masks are flipped with their images, before
    colours = recipe if source.task == "classify" else recipe.replace(flip=0.0)

    # once for each batch, which costs less than once for each image
    def draw(index: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        crops = draw_crops(recipe, size, [_stream(recipe, _CROP), index])
        positions = index * size + tf.range(size, dtype=tf.int64)
        return tuple(_taken(x, places) for x in (numbers, positions, crops))

    def load(number: tf.Tensor, position: tf.Tensor, crop: tf.Tensor) -> Pair:
        picture, label = read(number)
        seed = tf.stack([_stream(recipe, _PICTURE), position])
        if source.task == "detect":
            return train_boxes(picture, label, recipe, seed)
        if source.task == "segment":
            return train_mask(picture, label, recipe, seed)
        return load_train(picture, recipe, crop, seed), _vector(label, classes)

    return (
        tf.data.Dataset.range(epoch, tf.int64.max)
        .flat_map(numbers_of)
        .skip(step)  # before any image is read
        .enumerate(start=first)
        .map(draw)
        .unbatch()
        .map(load, PARALLEL)
        # a static shape, so that XLA compiles once
        .batch(size if places is None else len(places), drop_remainder=True)
        .enumerate(start=first)
        .map(lambda index, batch: _finish(batch, colours, index, places), BATCHES)
        .prefetch(BATCHES)
        .with_options(_untuned())
    )


def _balanced(split: Split, recipe: Any) -> Callable[..., tf.Tensor]:
    """A function (permutation, epoch) -> the numbers of the images of a balanced epoch.

    Each class has the same number of places in the epoch, or one more. Its images take
    them in the order of the permutation, again from the first if they are too few. The
    epoch has as many places as there are images.
    """
    labels = split.all_labels()
    present, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    starts, kinds = np.cumsum(counts) - counts, len(present)

    def balance(order: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        by_class = tf.gather(order, tf.argsort(tf.gather(labels, order), stable=True))
        key = tf.stack([_stream(recipe, _CLASS), epoch])
        places = tf.range(split.size, dtype=tf.int64)
        places = tf.random.experimental.stateless_shuffle(places, key, alg="philox")
        # the classes that have one place more are others in each epoch
        kind, turn = (places + epoch) % kinds, places // kinds
        turn %= tf.gather(counts, kind)
        return tf.gather(by_class, tf.gather(starts, kind) + turn)

    return balance


def _places(recipe: Any, index: int, count: int) -> np.ndarray:
    """The places in the whole batch of the images of a slice, in the slice's order.

    Each of the `accumulate` parts of the batch is divided by itself, and what is mixed
    stays together.
    """
    size, parts = recipe.batch_size, recipe.accumulate
    mixes = bool(recipe.mixup or recipe.cutmix)
    unit = parts * count * (2 if mixes and count > 1 else 1)
    if size % unit:
        pairs = ", of whose images two are mixed" if mixes else ""
        raise DataError(
            f"batch_size={size}: cannot be divided among {count} processes{pairs}, "
            f"with accumulate={parts}; choose a multiple of {unit}, or fewer processes"
        )
    places = np.arange(size)
    if mixes and size % 2 == 0:
        places = np.stack([places[: size // 2], places[: size // 2 - 1 : -1]], axis=1)
    return places.reshape(parts, count, -1)[:, index].ravel()


def _taken(values: tf.Tensor, places: np.ndarray | None) -> tf.Tensor:
    return values if places is None else tf.gather(values, places)


def _untuned() -> tf.data.Options:
    """Returns tf.data options that disable autotuning.

    The autotuning thread sleeps for 10 ms, then twice as long each time, up to a
    minute. An iterator cannot end before that thread wakes up, which could double the
    duration of the validation after an epoch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _finish(
    batch: Pair, recipe: Any, index: tf.Tensor, places: np.ndarray | None = None
) -> Pair:
    """Augments a batch: flips and color distortion, then mixup or CutMix."""
    images, labels = batch
    paired = places is not None and recipe.batch_size % 2 == 0
    seed = tf.stack([_stream(recipe, _COLOUR), index])
    shape = [recipe.batch_size, DRAWS]
    draws = tf.random.stateless_uniform(shape, seed, alg="philox")
    images = distort(images, _taken(draws, places), recipe)
    seed = tf.stack([_stream(recipe, _MIX), index])

    def blended() -> Pair:
        return mixup(images, labels, recipe.mixup, seed, paired)

    def pasted() -> Pair:
        mixed, shares = cutmix(images, labels, recipe.cutmix, seed, paired)
        return tf.cast(mixed, tf.float32 if recipe.mixup else tf.uint8), shares

    if recipe.mixup and recipe.cutmix:  # each has a probability of one half
        choice = tf.stack([_stream(recipe, _CHOICE), index])
        is_mixup = tf.random.stateless_uniform([], choice, alg="philox") < 0.5
        return tf.cond(is_mixup, blended, pasted)
    if recipe.mixup:
        return blended()
    return pasted() if recipe.cutmix else (images, labels)


def _vector(label: tf.Tensor, classes: int) -> tf.Tensor:
    """The label as float32 [classes]; of several labels, it is already."""
    return tf.one_hot(label, classes) if label.shape.rank == 0 else label


def _stream(recipe: Any, purpose: int) -> tf.Tensor:
    return tf.constant(recipe.seed * 8 + purpose, tf.int64)


def eval_batches(
    source: SourceLike,
    recipe: Any,
    split: str = "val",
    batch_size: int | None = None,
    load: Callable[[tf.Tensor, Any], tf.Tensor] = load_eval,
    slice_of: Slice | None = None,
) -> tf.data.Dataset:
    """One pass over a split, each image exactly once; the last batch may be smaller.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, or a Protocol (size, crop_pct, interpolation).
        split: "val" or "train".
        batch_size: the batch size; None takes that of the recipe.
        load: a function (image file or pixels, protocol) -> the model's input; for
            classification alone.
        slice_of: (index, count), to read only this slice of each batch. The last batch
            is then filled up with images of weight zero, and weights are yielded too.

    Yields:
        (images, labels): uint8 [B, S, S, 3], float32 [B, K], or boxes or masks as in
        `train_batches`; and weights float32 [B] with `slice_of`, 0 for what fills a
        batch up.

    Raises:
        DataError: the source does not have this split.
    """
    source = open_source(source)
    classes = len(source.class_names)
    protocol = getattr(recipe, "protocol", recipe)
    batch_size = batch_size or recipe.batch_size
    examples = source.split(split)
    batches, weights = -(-examples.size // batch_size), None
    if slice_of is not None:
        index, count = slice_of
        places = np.arange(batches * batch_size).reshape(batches, count, -1)[:, index]
        batch_size = places.shape[1]
        weights = (places < examples.size).astype(np.float32)
        examples = examples.take(np.minimum(places, examples.size - 1).ravel())

    def loaded(data: tf.Tensor, label: Any) -> Pair:
        if source.task == "detect":
            return eval_boxes(data, label, protocol)
        if source.task == "segment":
            return eval_mask(data, label, protocol)
        return load(data, protocol), _vector(label, classes)

    def weighted(batches: tf.data.Dataset) -> tf.data.Dataset:
        if weights is None:
            return batches
        given = tf.data.Dataset.from_tensor_slices(weights)
        return tf.data.Dataset.zip(batches, given).map(lambda two, one: (*two, one))

    return (
        examples.ordered()
        .map(loaded, PARALLEL)
        .batch(batch_size, drop_remainder=weights is not None)
        .apply(weighted)
        # Keras's fit needs the number of batches; any other number raises an error
        .apply(tf.data.experimental.assert_cardinality(batches))
        .prefetch(BATCHES)
        .with_options(_untuned())
    )
