"""Sources -> batches: endless shuffled training, and one finite evaluation pass."""

import contextlib
import dataclasses
import re

import tensorflow as tf

from keras_resnet.data.crop import load_eval, load_train
from keras_resnet.data.decode import decode_image
from keras_resnet.data.source import DataError, open_source

AUTOTUNE = tf.data.AUTOTUNE


def steps_per_epoch(source, recipe):
    """Full batches in one pass over the training pictures."""
    size = open_source(source).split("train").size
    if recipe.batch_size > size:
        raise DataError(
            f"batch_size={recipe.batch_size}: more than the {size} training pictures "
            f"of {open_source(source).path}; choose a smaller batch"
        )
    return size // recipe.batch_size


def train_batches(source, recipe, epoch=0):
    """Endless full batches, a pure function of the recipe's seed, epoch and position.

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
            lambda index, batch: mixup(
                batch[0], batch[1], recipe.mixup, (recipe.seed, index)
            ),
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
    batch_size = batch_size or recipe.batch_size
    pictures = source.split(split)
    return (
        pictures.ordered()
        .map(
            lambda data, label: (load_eval(data, protocol), tf.one_hot(label, classes)),
            AUTOTUNE,
        )
        .batch(batch_size)
        # an error if there are more or fewer, and no guess about the end in fit
        .apply(tf.data.experimental.assert_cardinality(-(-pictures.size // batch_size)))
        .prefetch(AUTOTUNE)
    )


@contextlib.contextmanager
def blame_pictures(source):
    """Turns a failure to read into a DataError that names the file or record."""
    try:
        yield
    except tf.errors.OpError as error:
        if found := _first_damaged(open_source(source)):
            raise DataError(found) from error
        raise


def _first_damaged(source):
    """The first picture that cannot be decoded, with the reason; None if all can."""
    for split in filter(None, (source.train, source.val)):
        for file in split.files:
            where = file
            try:
                if split.labels is not None:
                    decode_image(tf.io.read_file(file))
                    continue
                where = f"{file}: record 0"
                shard = dataclasses.replace(split, files=(file,))
                for number, (data, _) in enumerate(shard.ordered()):
                    decode_image(data)
                    where = f"{file}: record {number + 1}"
            except tf.errors.OpError as error:
                reason = first_sentence(error)
                return f"{where}: cannot be read ({reason}); repair or remove it"
    return None


def first_sentence(error: tf.errors.OpError) -> str:
    """What an operation complains of, without TensorFlow's names for where."""
    text = error.message or ""
    if "Summarized data:" in text:  # an eager assertion, its parts a line each
        parts = text.partition("Summarized data:")[2].strip().split("\n")
        return " ".join(re.sub(r"^b'(.*)'$", r"\1", part) for part in parts)
    if asserted := re.search(r"assertion failed: (\[.*)", text):
        return re.sub(r"\[(.*?)\]", r"\1", asserted[1]).partition("{{")[0].strip()
    text = re.sub(r"\{\{.*?\}\}", "", text).partition(" [Op:")[0]
    return text.strip().partition("\n")[0]


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
