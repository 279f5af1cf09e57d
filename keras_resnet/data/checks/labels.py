"""Infers class names and the range of labels from the records of TFRecord shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from keras_resnet.errors import DataError

# the keys of the image, of its label, and of two possible names of its class
KEYS = ("image/encoded", "image/class/label", "image/class/text", "image/class/synset")

Places = Mapping[int, str]  # {label: the first record with this label}
# {label: {name: the first record with this label and name}}
NamePlaces = Mapping[int, Mapping[str, str]]


def find_range(
    root: str | os.PathLike[str], found: Places, first_label: int, classes: int | None
) -> range:
    """The range of allowed labels.

    Args:
        root: the folder, for error messages.
        found: the labels of the training split, or of validation if there is no other.
        first_label: the label of class 0.
        classes: the number of classes. None: all labels up to the largest one, which
            must occur.

    Raises:
        DataError: the labels found contradict the other arguments.
    """
    span = f"labels are from {min(found)} to {max(found)}"
    if first_label and first_label - 1 in found:
        raise DataError(
            f"{found[first_label - 1]}: label {first_label - 1}, but "
            f"first_label={first_label}; {span}; use first_label={first_label - 1}, or "
            "repair the record"
        )
    if classes is None:
        allowed = range(first_label, max(found) + 1)
    else:
        allowed = range(first_label, first_label + classes)
    beyond = max(found) > allowed[-1]
    for label in allowed:
        if label in found or not (beyond or classes is None):
            continue
        if label == first_label:
            raise DataError(
                f"{root}: first_label={label}, but no picture has it; {span}; use "
                f"first_label={min(found)}, or give classes= if some have no picture"
            )
        after = min(other for other in found if other > label)
        raise DataError(
            f"{found[after]}: label {after}, but no picture has label {label}; {span}; "
            "repair the record, or give classes= if some have no picture"
        )
    return allowed


def find_names(
    labels: range, texts: NamePlaces, synsets: NamePlaces
) -> tuple[str, ...]:
    """Returns the names of the classes.

    These are the texts if all labels have different ones, else the synsets under the
    same condition, else the labels.

    Raises:
        DataError: a label has two names.
    """
    for names in (texts, synsets):
        for label, given in names.items():
            if len(given) > 1 and label in labels:
                (one, here), (two, there), *_ = given.items()
                raise DataError(
                    f"{there}: label {label} is {two!r}, but {one!r} in {here}; "
                    "the labels or the names are mixed up"
                )
        chosen = [next(iter(names.get(label, ())), None) for label in labels]
        if None not in chosen and len(set(chosen)) == len(chosen):
            return tuple(map(str, chosen))
    return tuple(map(str, labels))


def check_names(
    root: str | os.PathLike[str],
    names: Sequence[str],
    labels: range,
    texts: NamePlaces,
) -> None:
    """Checks that the labels and texts of the records agree with a manifest's names.

    Nothing is checked if some text is not one of the names.

    Raises:
        DataError: a label has another name in the manifest.
    """
    if not {text for given in texts.values() for text in given} <= set(names):
        return
    for label, given in texts.items():
        for text, where in given.items():
            if label in labels and names[labels.index(label)] != text:
                raise DataError(
                    f"{where}: label {label} is {text!r}, but "
                    f"{names[labels.index(label)]!r} in {root}; its class names are in "
                    "another order, or the labels are wrong"
                )
