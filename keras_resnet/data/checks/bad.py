"""Finds images that cannot be decoded, and leaves out a limited number of them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data.folders import find_foreign
from keras_resnet.data.sources import SourceLike, open_source
from keras_resnet.data.splits import Files, Reader, Source, Split
from keras_resnet.data.transforms.decode import decode_image, first_sentence
from keras_resnet.errors import DataError

_MANY = 5_000  # images; decoding more takes long enough to be announced
_LISTED = 5  # the most bad images that an error names

# the errors of reading and decoding an image; others, such as running out of memory,
# are not caused by an image
_PICTURE_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnimplementedError,
    tf.errors.UnknownError,
)
# appears in the message of an error that a tf.data iterator raised
_ITERATOR = re.compile(r"IteratorGetNext\w*(\}\}|\])")


def find_bad(split: Split, limit: int | None = None) -> dict[int, str]:
    """Decodes every image of a split to find those that fail.

    Only regular files with the first bytes of an image are decoded. Others are bad, and
    reading a named pipe would block.

    Args:
        split: a split of a Source.
        limit: the number of bad images at which the search stops; None: no limit.

    Returns:
        {number: reason} of the bad images.
    """
    read = split.reader()

    def decode(number: tf.Tensor) -> tf.Tensor:
        picture, label = read(number)
        shape = tf.shape(decode_image(picture))
        with tf.control_dependencies([shape, *tf.nest.flatten(label)]):
            return tf.identity(number)

    # `ignore_errors` right after `map` drops only the elements that fail
    foreign = dict(find_foreign(split.files)) if isinstance(split, Files) else {}
    others = np.setdiff1d(np.arange(split.size), list(foreign))
    good = tf.data.Dataset.from_tensor_slices(others).map(decode, tf.data.AUTOTUNE)
    good = good.ignore_errors().prefetch(tf.data.AUTOTUNE)
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


def _reason(read: Reader, number: int) -> str | None:
    try:
        decode_image(read(tf.constant(number, tf.int64))[0])
    except tf.errors.OpError as error:
        return first_sentence(error)
    return None  # the file has been repaired in the meantime


@contextlib.contextmanager
def blame_pictures(
    source: SourceLike, splits: Sequence[str] = ("train", "val")
) -> Iterator[None]:
    """Context manager that turns a data set's error into one that names the image.

    When a tf.data iterator fails in the block, the images of these splits are decoded
    until one fails. If there are many, a message on stderr says so. Other errors pass.

    Raises:
        DataError: an image cannot be read.
    """
    source = open_source(source)  # now, as files may disappear later
    try:
        yield
    except _PICTURE_ERRORS as error:
        if not _ITERATOR.search(error.message or ""):
            raise
        for name in filter(source.splits.get, splits):
            split = source.split(name)
            if split.size >= _MANY:
                print(
                    f"{source.path}: cannot be read; decoding the {split.size:,} "
                    f"pictures of {name} to find the bad one",
                    file=sys.stderr,
                )
            for number, reason in find_bad(split, limit=1).items():
                raise DataError(
                    f"{split.where(number)}: cannot be read ({reason}), picture "
                    f"{number} of {name}; repair or remove it, or allow bad pictures "
                    "with max_bad_examples"
                ) from error
        raise


def without_bad(
    source: SourceLike,
    max_bad_examples: int = 0,
    splits: Sequence[str] = ("train", "val"),
    task: str | None = None,
) -> tuple[Source, list[dict]]:
    """Leaves out the images that cannot be decoded, if they are few enough.

    The manifest of `keras-resnet validate` lists bad images. If the source has no such
    manifest and `max_bad_examples` is above 0, every image is decoded here, so that the
    numbers of images and steps are known before training. Files that are not images
    count as bad. With `max_bad_examples=0` nothing is decoded here, and a bad image
    that no manifest lists raises an error when training reaches it.

    Args:
        source: what `open_source` takes.
        max_bad_examples: how many images may be left out of these splits together.
        splits: the splits to search.
        task: as in `open_source`.

    Returns:
        The source without the bad images, and a list of these, as dicts with "split",
        "where" and "reason".

    Raises:
        DataError: more images are bad, or no image of a split is left.
    """
    source = open_source(source, not max_bad_examples, task)
    skipped = [entry for entry in source.skipped if entry["split"] in splits]
    # images that an earlier call left out stay allowed
    budget = max(max_bad_examples, len(skipped))
    kept: dict[str, Any] = {}
    bad = dict(source.bad)
    scanned = max_bad_examples > 0 and not source.validated
    for name in [name for name in source.splits if name in splits]:
        split = source.split(name)
        found = bad.pop(name, {})
        if scanned:
            found = find_bad(split, budget + 1 - len(skipped))
        skipped += [
            {"split": name, "where": split.where(number), "reason": reason}
            for number, reason in found.items()
        ]
        if found:
            kept[name] = split.take(np.setdiff1d(np.arange(split.size), list(found)))
    if len(skipped) > budget:
        raise DataError(_too_many(source, skipped, max_bad_examples))
    if empty := [name for name, split in kept.items() if not split.size]:
        raise DataError(f"{source.path}: no {empty[0]} picture can be decoded")
    others = [entry for entry in source.skipped if entry["split"] not in splits]
    validated = source.validated or (scanned and source.splits.keys() <= set(splits))
    if not kept and validated == source.validated:  # keeps the cached fingerprint
        return source, skipped
    usable = dataclasses.replace(
        source, **kept, bad=bad, validated=validated, skipped=(*others, *skipped)
    )
    return usable, skipped


def _too_many(source: Source, skipped: list[dict], max_bad_examples: int) -> str:
    named = "; ".join(
        f"{entry['where']} ({entry['reason']})" for entry in skipped[:_LISTED]
    )
    more = "; ..." if len(skipped) > _LISTED else ""
    count = len(skipped) if source.validated else f"at least {len(skipped)}"
    return (
        f"{source.path}: {count} of its pictures cannot be used, and "
        f"max_bad_examples={max_bad_examples}: {named}{more}; repair or remove them "
        "and run `keras-resnet validate` again, or raise max_bad_examples"
    )
