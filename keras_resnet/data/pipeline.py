"""Sources -> batches: endless shuffled training, and one finite evaluation pass."""

import tensorflow as tf

from keras_resnet.data.crop import load_eval, load_train
from keras_resnet.data.source import DataError, open_source

AUTOTUNE = tf.data.AUTOTUNE


def steps_per_epoch(source, recipe):
    """Full batches in one pass over the training pictures."""
    size = open_source(source).split("train").size
    if recipe.batch_size > size:
        raise DataError(
            f"batch_size={recipe.batch_size}: more than the {size} training pictures of "
            f"{open_source(source).path}; choose a smaller batch"
        )
    return size // recipe.batch_size


def train_batches(source, recipe, epoch=0):
    """Endless full batches: a pure function of the recipe's seed, the epoch, the position.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe; its seed, batch_size, train_size and augmentation count.
        epoch: the first one. An epoch is `steps_per_epoch` batches of pictures that are
            all different; the few that do not fill a batch are left out of it.

    Yields:
        (images, labels): float32 [B, S, S, 3] in [0, 255], float32 one-hot [B, K].
    """
    source = open_source(source)
    split, classes = source.split("train"), len(source.class_names)
    steps = steps_per_epoch(source, recipe)

    def example(index, pair):
        data, label = pair
        image = load_train(data, recipe, seed=tf.stack([recipe.seed, index]))
        return image, tf.one_hot(label, classes)

    def one_epoch(number):
        return (
            split.shuffled(recipe.seed, number)
            .enumerate(start=number * split.size)
            .map(example, AUTOTUNE)
            .batch(recipe.batch_size, drop_remainder=True)  # XLA compiles once
            .take(steps)
        )

    last = tf.int64.max
    batches = tf.data.Dataset.range(epoch, last).flat_map(one_epoch)
    if recipe.mixup:
        batches = batches.enumerate(start=epoch * steps).map(
            lambda index, batch: mixup(*batch, recipe.mixup, (recipe.seed, index)),
            AUTOTUNE,
        )
    return batches.prefetch(AUTOTUNE)


def eval_batches(source, recipe, split="val", batch_size=None):
    """One finite pass over a split, each picture exactly once; the last batch is short.

    Args:
        source: what `open_source` takes.
        recipe: a Recipe, or a Protocol (size, crop_pct, interpolation).
        split: "val" or "train".
        batch_size: None is the recipe's.

    Yields:
        (images, labels): uint8 [B, S, S, 3], float32 one-hot [B, K].
    """
    source = open_source(source)
    classes = len(source.class_names)
    protocol = getattr(recipe, "protocol", recipe)
    return (
        source.split(split)
        .ordered()
        .map(
            lambda data, label: (load_eval(data, protocol), tf.one_hot(label, classes)),
            AUTOTUNE,
        )
        .batch(batch_size or recipe.batch_size)
        .prefetch(AUTOTUNE)
    )


def mixup(images, labels, alpha, seed):
    """Mixes each picture with its mirror in the batch (arXiv 1710.09412).

    One lambda ~ Beta(alpha, alpha) a batch, from two gammas, as GluonCV's script draws
    it. Labels are one-hot and stay float32.
    """
    seed = tf.stack([tf.cast(part, tf.int64) for part in seed])
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    # both gammas underflow together now and then where alpha is small: then no mixing
    total = tf.reduce_sum(gammas)
    weight = tf.where(total > 0, gammas[0] / tf.maximum(total, 1e-30), 1.0)

    def mix(x):
        return weight * x + (1 - weight) * tf.reverse(x, [0])

    return mix(images), mix(labels)
