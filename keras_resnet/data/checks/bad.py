"""Pictures that cannot be used: found, named, and left out within a budget."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import sys

import numpy as np
import tensorflow as tf

from keras_resnet.data.sources import Source, find_foreign, open_source
from keras_resnet.data.splits import Files, Split
from keras_resnet.data.transforms.decode import decode_image
from keras_resnet.errors import DataError

AUTOTUNE = tf.data.AUTOTUNE
_MANY = 5_000  # pictures, the decoding of which takes more than some seconds
_NAMED = 5  # of many bad pictures, those that an error names

# what reading and decoding fail with; others, as a full memory, are not a picture's
_OF_PICTURES = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnimplementedError,
    tf.errors.UnknownError,
)
# in such an error's text, if a data set raised it: in a graph, or by Python's iterator
_OF_ITERATOR = re.compile(r"IteratorGetNext\w*(\}\}|\])")


def find_bad(split: Split, limit: int | None = None) -> dict[int, str]:
    """Decodes every picture of a split: {number: why it cannot be}, in order.

    What is no file, or none of a picture's by its first bytes, is not decoded: a pipe
    would block.

    Args:
        split: of a Source.
        limit: stops at so many.
    """
    read = split.reader()

    def try_one(number):
        picture, label = read(number)
        shape = tf.shape(decode_image(picture))
        with tf.control_dependencies([shape, label]):
            return tf.identity(number)

    # an error in map's own function is of that element alone: the others follow
    foreign = dict(find_foreign(split.files)) if isinstance(split, Files) else {}
    others = np.setdiff1d(np.arange(split.size), list(foreign))
    good = tf.data.Dataset.from_tensor_slices(others).map(try_one, AUTOTUNE)
    good = good.ignore_errors().prefetch(AUTOTUNE)
    found: dict[int, str] = {}
    expected = 0
    for number in itertools.chain(good.as_numpy_iterator(), [split.size]):
        for missing in range(expected, int(number)):
            if limit is not None and len(found) >= limit:
                return found
            if reason := foreign.get(missing) or _reason(read, missing):
                found[missing] = reason
        expected = int(number) + 1
    return found


def _reason(read, number):
    try:
        decode_image(read(tf.constant(number, tf.int64))[0])
    except tf.errors.OpError as error:
        return first_sentence(error)
    return None  # it is whole by now


@contextlib.contextmanager
def blame_pictures(source, splits=("train", "val")):
    """Turns a failure to read into a DataError that names the file or record.

    It decodes the pictures of these splits of the source until one fails, and says so
    where they are many. An error of something else than a data set passes.
    """
    source = open_source(source)  # as it is now, not when a file is gone
    try:
        yield
    except _OF_PICTURES as error:
        if not _OF_ITERATOR.search(error.message or ""):
            raise
        for name in filter(source.splits.get, splits):
            split = source.split(name)
            if split.size >= _MANY:
                print(
                    f"{source.path}: cannot be read; decoding the {split.size:,} "
                    f"pictures of {name} to find the one at fault",
                    file=sys.stderr,
                )
            for number, reason in find_bad(split, limit=1).items():
                raise DataError(
                    f"{split.where(number)}: cannot be read ({reason}), picture "
                    f"{number} of {name}; repair or remove it, or skip it with "
                    "max_bad_examples"
                ) from error
        raise


def without_bad(
    source, max_bad_examples: int = 0, splits=("train", "val")
) -> tuple[Source, list[dict]]:
    """Leaves out the pictures that cannot be decoded, if they are few enough.

    The manifest of `keras-resnet validate` says which they are. Without one, and with
    a budget, every picture is decoded to know, and what is no picture at all counts
    too: the number of pictures, and so steps and denominators, never depend on what
    turns up in training. Without a budget nothing is decoded here, and a bad picture
    that no manifest lists is fatal when it is met.

    Args:
        source: what `open_source` takes.
        max_bad_examples: the most that are left out, of these splits together.
        splits: which are looked at.

    Returns:
        The source without them, and [{"split", "where", "reason"}, ...] of them.

    Raises:
        DataError: more are bad; it names the first few.
    """
    source = open_source(source, preflight=not max_bad_examples)
    skipped = [entry for entry in source.skipped if entry["split"] in splits]
    # what was allowed before stays allowed
    most = max(max_bad_examples, len(skipped))
    kept, bad = {}, dict(source.bad)
    scanned = max_bad_examples > 0 and not source.validated
    for name in [name for name in source.splits if name in splits]:
        split = source.split(name)
        found = bad.pop(name, {})
        if scanned:
            found = find_bad(split, most + 1 - len(skipped))
        skipped += [
            {"split": name, "where": split.where(number), "reason": reason}
            for number, reason in found.items()
        ]
        if found:
            kept[name] = split.take(np.setdiff1d(np.arange(split.size), list(found)))
    if len(skipped) > most:
        raise DataError(_too_many(source, skipped, max_bad_examples))
    if empty := [name for name, split in kept.items() if not split.size]:
        raise DataError(f"{source.path}: no {empty[0]} picture can be decoded")
    others = [entry for entry in source.skipped if entry["split"] not in splits]
    known = source.validated or (scanned and source.splits.keys() <= set(splits))
    if not kept and known == source.validated:  # which knows its fingerprint
        return source, skipped
    left = dataclasses.replace(
        source, **kept, bad=bad, validated=known, skipped=(*others, *skipped)
    )
    return left, skipped


def _too_many(source, skipped, most):
    named = "; ".join(
        f"{entry['where']} ({entry['reason']})" for entry in skipped[:_NAMED]
    )
    more = "; ..." if len(skipped) > _NAMED else ""
    count = len(skipped) if source.validated else f"at least {len(skipped)}"
    return (
        f"{source.path}: {count} of its pictures cannot be used, and "
        f"max_bad_examples={most}: {named}{more}; repair or remove them and run "
        "`keras-resnet validate` again, or allow so many"
    )


def first_sentence(error: tf.errors.OpError) -> str:
    """What an operation complains of, without TensorFlow's names for where."""
    text = error.message or ""
    if "Summarized data:" in text:  # an eager assertion, its parts a line each
        parts = text.partition("Summarized data:")[2].strip().split("\n")
        return " ".join(re.sub(r"^b'(.*)'$", r"\1", part) for part in parts)
    if asserted := re.search(r"assertion failed: (\[.*)", text):
        return re.sub(r"\[(.*?)\]", r"\1", asserted[1]).partition("{{")[0].strip()
    # before it, where in Python the graph was made
    text = text.strip().rpartition("\n\n")[2]
    text = re.sub(r"\{\{.*?\}\}", "", text).partition(" [Op:")[0]
    return text.strip().partition("\n")[0]
