"""The class names and the range of labels of TFRecords, from the records alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from keras_resnet.errors import DataError

# of a picture, its label, and two possible names of the label
KEYS = ("image/encoded", "image/class/label", "image/class/text", "image/class/synset")

Places = Mapping[int, str]  # {label: the first record that has it}
NamePlaces = Mapping[int, Mapping[str, str]]  # {label: {name: the first record}}


def find_range(
    root: str | os.PathLike[str], found: Places, first_label: int, classes: int | None
) -> range:
    """The labels that are allowed.

    Args:
        root: the folder that an error names.
        found: the labels of training, or of validation where there is no training.
        first_label: the label of class 0.
        classes: the number of classes; None: up to the largest label, without a gap.

    Raises:
        DataError: the labels found contradict the other arguments.
    """
    span = f"labels are from {min(found)} to {max(found)}"
    if first_label and first_label - 1 in found:
        raise DataError(
            f"{found[first_label - 1]}: label {first_label - 1}, but "
            f"first_label={first_label}; {span}; say first_label={first_label - 1}, or "
            "repair it"
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
                f"{root}: first_label={label}, but no picture has it; {span}; say "
                f"first_label={min(found)}, or classes= if some have no picture"
            )
        after = min(other for other in found if other > label)
        raise DataError(
            f"{found[after]}: label {after}, but no picture has label {label}; {span}; "
            "repair it, or say classes= if some have no picture"
        )
    return allowed


def find_names(
    labels: range, texts: NamePlaces, synsets: NamePlaces
) -> tuple[str, ...]:
    """A name for each label: its text, or its synset where two texts are the same.

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
    """DataError where records and manifest give the same names to other labels."""
    if not {text for given in texts.values() for text in given} <= set(names):
        return  # the manifest has other names than the texts
    for label, given in texts.items():
        for text, where in given.items():
            if label in labels and names[labels.index(label)] != text:
                raise DataError(
                    f"{where}: label {label} is {text!r}, but "
                    f"{names[labels.index(label)]!r} in {root}; its class names are in "
                    "another order, or the labels are wrong"
                )
