"""Sources -> batches: endless shuffled training, and one finite evaluation pass."""

import os

import tensorflow as tf

from keras_resnet.data.sources import open_source
from keras_resnet.data.transforms.colour import DRAWS, distort
from keras_resnet.data.transforms.crop import draw_crops, load_eval, load_train
from keras_resnet.data.transforms.mix import cutmix, mixup
from keras_resnet.errors import DataError

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
PARALLEL = _CORES or os.cpu_count() or 1  # pictures at a time
BATCHES = 2  # that are ready, or worked on, beside the one that is used
# what a stream of random numbers is for: no two share their seeds
_ORDER, _CROP, _PICTURE, _COLOUR, _MIX, _CHOICE = range(6)


def steps_per_epoch(source, recipe):
    """Full batches in one pass over the training pictures."""
    size = open_source(source).split("train").size
    if recipe.batch_size > size:
        raise DataError(
            f"batch_size={recipe.batch_size}: more than the {size} training pictures "
            f"of {open_source(source).path}; choose a smaller batch"
        )
    return size // recipe.batch_size


def train_batches(source, recipe, epoch=0, step=0):
    """Endless full batches, a pure function of the recipe's seed, epoch and position.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe; its seed, batch_size, train_size and augmentation count.
        epoch: the first one. An epoch is `steps_per_epoch` batches of pictures that are
            all different, or with `repeats` come so often one after the other, and the
            fewer of them; the few that do not fill a batch are left out of it.
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

    def numbers_of(epoch):
        order = split.order(_stream(recipe, _ORDER), epoch)
        if recipe.repeats > 1:
            some = order[: -(-split.size // recipe.repeats)]
            order = tf.repeat(some, recipe.repeats)
        return tf.data.Dataset.from_tensor_slices(order).batch(size).take(steps)

    def draw(index, numbers):  # for a batch at once, which is cheaper
        crops = draw_crops(recipe, size, [_stream(recipe, _CROP), index])
        positions = index * size + tf.range(size, dtype=tf.int64)
        return numbers, positions, crops

    def example(number, position, crop):
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
        .map(example, PARALLEL)
        .batch(size, drop_remainder=True)  # XLA compiles once
        .enumerate(start=first)
        .map(lambda index, batch: _finish(batch, recipe, index), BATCHES)
        .prefetch(BATCHES)
        .with_options(_untuned())
    )


def _untuned():
    """Whoever ends an iterator may wait for the thread that tunes it to wake.

    It sleeps for 10 ms, then twice as long each time, up to a minute, and so an epoch's
    validation could take twice its time.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _finish(batch, recipe, index):
    """What is done to whole batches: mirrors and colour, then mixup or CutMix."""
    images, labels = batch
    seed = tf.stack([_stream(recipe, _COLOUR), index])
    shape = [recipe.batch_size, DRAWS]
    draws = tf.random.stateless_uniform(shape, seed, alg="philox")
    images = distort(images, draws, recipe)
    seed = tf.stack([_stream(recipe, _MIX), index])

    def blended():
        return mixup(images, labels, recipe.mixup, seed)

    def pasted():
        pair = cutmix(images, labels, recipe.cutmix, seed)
        return tf.cast(pair[0], tf.float32 if recipe.mixup else tf.uint8), pair[1]

    if recipe.mixup and recipe.cutmix:  # either, half of the batches each
        choice = tf.stack([_stream(recipe, _CHOICE), index])
        heads = tf.random.stateless_uniform([], choice, alg="philox") < 0.5
        return tf.cond(heads, blended, pasted)
    if recipe.mixup:
        return blended()
    return pasted() if recipe.cutmix else (images, labels)


def _stream(recipe, purpose):
    return tf.constant(recipe.seed * 8 + purpose, tf.int64)


def eval_batches(source, recipe, split="val", batch_size=None, load=load_eval):
    """One finite pass over a split, each picture exactly once; the last batch is short.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, or a Protocol (size, crop_pct, interpolation).
        split: "val" or "train".
        batch_size: None is the recipe's.
        load: (picture, protocol) -> what the model sees of it.

    Yields:
        (images, labels): uint8 [B, S, S, 3], float32 one-hot [B, K].
    """
    source = open_source(source)
    classes = len(source.class_names)
    protocol = getattr(recipe, "protocol", recipe)
    batch_size = batch_size or recipe.batch_size
    pictures = source.split(split)
    return (
        pictures.ordered()
        .map(
            lambda data, label: (load(data, protocol), tf.one_hot(label, classes)),
            PARALLEL,
        )
        .batch(batch_size)
        # an error if there are more or fewer, and no guess about the end in fit
        .apply(tf.data.experimental.assert_cardinality(-(-pictures.size // batch_size)))
        .prefetch(BATCHES)
        .with_options(_untuned())
    )
