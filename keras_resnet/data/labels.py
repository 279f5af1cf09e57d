"""What the labels of TFRecords mean, by all that the records say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

from keras_resnet.errors import DataError

# a picture, its label, and what may tell the label's name
KEYS = ("image/encoded", "image/class/label", "image/class/text", "image/class/synset")


def find_range(root, found, first_label: int, classes: int | None) -> range:
    """The labels that there may be.

    Args:
        root: what an error names.
        found: {label: where it was first seen}, of training if there is any.
        first_label: what the records call class 0, as somebody says.
        classes: how many there are; None: as many as are seen, and no gap between.

    Raises:
        DataError: the labels contradict what was said.
    """
    seen = f"labels are from {min(found)} to {max(found)}"
    if first_label and first_label - 1 in found:
        raise DataError(
            f"{found[first_label - 1]}: label {first_label - 1}, but "
            f"first_label={first_label}; {seen}; say first_label={first_label - 1}, or "
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
                f"{root}: first_label={label}, but no picture has it; {seen}; say "
                f"first_label={min(found)}, or classes= if some have no picture"
            )
        after = min(other for other in found if other > label)
        raise DataError(
            f"{found[after]}: label {after}, but no picture has label {label}; {seen}; "
            "repair it, or say classes= if some have no picture"
        )
    return allowed


def find_names(labels: range, texts, synsets) -> tuple[str, ...]:
    """A name for each label: its text, or its synset where texts are not all different.

    Args:
        labels: those that there may be.
        texts, synsets: {label: {name: where it was first seen}}.

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


def check_names(root, names: Sequence[str], labels: range, texts) -> None:
    """DataError where records and manifest give the same names to other labels."""
    if not {text for given in texts.values() for text in given} <= set(names):
        return  # the names are not the texts
    for label, given in texts.items():
        for text, where in given.items():
            if label in labels and names[labels.index(label)] != text:
                raise DataError(
                    f"{where}: label {label} is {text!r}, but "
                    f"{names[labels.index(label)]!r} in {root}; its class names are in "
                    "another order, or the labels are wrong"
                )
