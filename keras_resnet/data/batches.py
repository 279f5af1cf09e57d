"""Sources -> batches: endless shuffled training, and one finite evaluation pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.data.sources import SourceLike, open_source
from keras_resnet.data.transforms.colour import DRAWS, distort
from keras_resnet.data.transforms.crop import load_eval
from keras_resnet.data.transforms.mix import cutmix, mixup
from keras_resnet.data.transforms.random_crop import draw_crops, load_train
from keras_resnet.errors import DataError

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
PARALLEL = _CORES or os.cpu_count() or 1  # pictures at a time
BATCHES = 2  # that are ready or in the making while one is used
# the purpose of a stream of random numbers: no two share their seeds
_ORDER, _CROP, _PICTURE, _COLOUR, _MIX, _CHOICE = range(6)

Pair = tuple[tf.Tensor, tf.Tensor]  # images, labels


def steps_per_epoch(source: SourceLike, recipe: Any) -> int:
    """The number of full batches in one pass over the training pictures."""
    size = open_source(source).split("train").size
    if recipe.batch_size > size:
        raise DataError(
            f"batch_size={recipe.batch_size}: more than the {size} training pictures "
            f"of {open_source(source).path}; choose a smaller batch"
        )
    return size // recipe.batch_size


def train_batches(
    source: SourceLike, recipe: Any, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """Endless full batches, a pure function of the recipe's seed, epoch and position.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, with seed, batch_size, train_size and augmentation.
        epoch: the first epoch. An epoch is `steps_per_epoch` batches, without the few
            pictures that do not fill a batch. A picture is in it once; with `repeats`
            it comes that often in a row, and the epoch has as many fewer pictures.
        step: the first batch of that epoch; those before it are not read.

    Yields:
        (images, labels): [B, S, S, 3] in [0, 255], uint8, or float32 where mixup
        blends them; float32 one-hot or mixed [B, K].
    """
    source = open_source(source)
    split, classes = source.split("train"), len(source.class_names)
    steps = steps_per_epoch(source, recipe)
    size, first = recipe.batch_size, epoch * steps + step
    read = split.reader()

    def numbers_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = split.order(_stream(recipe, _ORDER), epoch)
        if recipe.repeats > 1:
            distinct = order[: -(-split.size // recipe.repeats)]
            order = tf.repeat(distinct, recipe.repeats)
        return tf.data.Dataset.from_tensor_slices(order).batch(size).take(steps)

    # for a whole batch, which is cheaper
    def draw(index: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        crops = draw_crops(recipe, size, [_stream(recipe, _CROP), index])
        positions = index * size + tf.range(size, dtype=tf.int64)
        return numbers, positions, crops

    def load(number: tf.Tensor, position: tf.Tensor, crop: tf.Tensor) -> Pair:
        picture, label = read(number)
        seed = tf.stack([_stream(recipe, _PICTURE), position])
        return load_train(picture, recipe, crop, seed), tf.one_hot(label, classes)

    return (
        tf.data.Dataset.range(epoch, tf.int64.max)
        .flat_map(numbers_of)
        .skip(step)  # numbers, not pictures
        .enumerate(start=first)
        .map(draw)
        .unbatch()
        .map(load, PARALLEL)
        .batch(size, drop_remainder=True)  # XLA compiles once
        .enumerate(start=first)
        .map(lambda index, batch: _finish(batch, recipe, index), BATCHES)
        .prefetch(BATCHES)
        .with_options(_untuned())
    )


def _untuned() -> tf.data.Options:
    """Options without autotuning, whose thread can delay the end of an iterator.

    The end waits until that thread wakes up. It sleeps for 10 ms, then twice as long
    each time, up to a minute, which could double the time of an epoch's validation.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _finish(batch: Pair, recipe: Any, index: tf.Tensor) -> Pair:
    """Augments a whole batch: mirrors and colour, then mixup or CutMix."""
    images, labels = batch
    seed = tf.stack([_stream(recipe, _COLOUR), index])
    shape = [recipe.batch_size, DRAWS]
    draws = tf.random.stateless_uniform(shape, seed, alg="philox")
    images = distort(images, draws, recipe)
    seed = tf.stack([_stream(recipe, _MIX), index])

    def blended() -> Pair:
        return mixup(images, labels, recipe.mixup, seed)

    def pasted() -> Pair:
        mixed, shares = cutmix(images, labels, recipe.cutmix, seed)
        return tf.cast(mixed, tf.float32 if recipe.mixup else tf.uint8), shares

    if recipe.mixup and recipe.cutmix:  # each for half of the batches
        choice = tf.stack([_stream(recipe, _CHOICE), index])
        is_mixup = tf.random.stateless_uniform([], choice, alg="philox") < 0.5
        return tf.cond(is_mixup, blended, pasted)
    if recipe.mixup:
        return blended()
    return pasted() if recipe.cutmix else (images, labels)


def _stream(recipe: Any, purpose: int) -> tf.Tensor:
    return tf.constant(recipe.seed * 8 + purpose, tf.int64)


def eval_batches(
    source: SourceLike,
    recipe: Any,
    split: str = "val",
    batch_size: int | None = None,
    load: Callable[[tf.Tensor, Any], tf.Tensor] = load_eval,
) -> tf.data.Dataset:
    """One finite pass over a split, each picture exactly once; the last batch is short.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, or a Protocol (size, crop_pct, interpolation).
        split: "val" or "train".
        batch_size: None: the recipe's.
        load: (picture, protocol) -> the model's input.

    Yields:
        (images, labels): uint8 [B, S, S, 3], float32 one-hot [B, K].
    """
    source = open_source(source)
    classes = len(source.class_names)
    protocol = getattr(recipe, "protocol", recipe)
    batch_size = batch_size or recipe.batch_size
    examples = source.split(split)
    batches = -(-examples.size // batch_size)
    return (
        examples.ordered()
        .map(
            lambda data, label: (load(data, protocol), tf.one_hot(label, classes)),
            PARALLEL,
        )
        .batch(batch_size)
        # an error if there are more or fewer; and Keras's fit knows the number
        .apply(tf.data.experimental.assert_cardinality(batches))
        .prefetch(BATCHES)
        .with_options(_untuned())
    )
