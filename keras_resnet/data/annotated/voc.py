"""Reads annotation files in the format of Pascal VOC, one XML file for each picture."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np

from keras_resnet.data.annotated.boxes import Annotations
from keras_resnet.data.annotated.listing import (
    PICTURES,
    SPLIT_NAMES,
    check_name,
    fault,
    list_stems,
    read_classes,
    read_lines,
    show,
)
from keras_resnet.data.annotated.objects import Objects, read_objects
from keras_resnet.data.folders import map_files

Pairs = list[tuple[str, str]]  # a picture and its annotation file


def find_voc(root: Path) -> dict[str, Pairs]:
    """{split: pairs of a picture and its annotation file}, empty if there are none."""
    if (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir():
        return pair_listed(root, "Main", "Annotations", ".xml")
    found = {}
    for split, names in SPLIT_NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        files = list_stems(folder, (".xml",)) if folder else {}
        if folder and files:
            pictures = list_stems(folder, PICTURES)
            if lonely := sorted(files.keys() ^ pictures.keys()):
                missing = "picture" if lonely[0] in files else "annotation file (.xml)"
                problem = f"{show(lonely[0])} has no {missing}"
                raise fault(folder, problem, "add it, or remove the other")
            found[split] = [(pictures[stem], files[stem]) for stem in files]
    return found


def pair_listed(root: Path, purpose: str, folder: str, suffix: str) -> dict[str, Pairs]:
    """Pairs the pictures in root/ImageSets/`purpose` with files in root/`folder`."""
    lists = {name: root / "ImageSets" / purpose / f"{name}.txt" for name in SPLIT_NAMES}
    pictures = list_stems(root / "JPEGImages", PICTURES)
    others = list_stems(root / folder, (suffix,))
    found = {}
    for split, file in lists.items():
        if not os.path.lexists(file):
            continue
        stems = read_lines(file)
        for stem in stems:
            check_name(file, stem)
            for kind, stored in (("JPEGImages", pictures), (folder, others)):
                if stem not in stored:
                    problem = f"{show(stem)} has no file in {root / kind}"
                    raise fault(file, problem, "add it, or remove the line")
        found[split] = [(pictures[stem], others[stem]) for stem in stems]
    return found


def read_voc(
    root: Path, found: dict[str, Pairs]
) -> tuple[tuple[str, ...], dict[str, Annotations]]:
    """Returns the names of the classes, and {split: annotations}."""
    parsed = {
        split: list(map_files(read_objects, [file for _, file in pairs]))
        for split, pairs in found.items()
    }
    class_names = read_classes(root)
    if class_names is None:
        files = itertools.chain.from_iterable(parsed.values())
        class_names = tuple(sorted({name for file in files for name in file.names}))
    if not class_names:
        raise fault(root, "no file has an object", "annotate some, or add classes.txt")
    splits = {
        split: _collect(found[split], parsed[split], class_names) for split in found
    }
    return class_names, splits


def _collect(
    pairs: Pairs, parsed: list[Objects], class_names: tuple[str, ...]
) -> Annotations:
    names = list(itertools.chain.from_iterable(file.names for file in parsed))
    boxes = itertools.chain.from_iterable(file.boxes for file in parsed)
    difficult = itertools.chain.from_iterable(file.difficult for file in parsed)
    counts = [len(file.names) for file in parsed]
    owners = np.repeat(np.arange(len(pairs)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    labels = {name: label for label, name in enumerate(class_names)}

    def name_object(number: int) -> str:
        owner = owners[number]
        picture, file = pairs[owner]
        ordinal = number - starts[owner] + 1
        return (
            f"{file}: object {ordinal} ({names[number]}) of picture "
            f"{os.path.basename(picture)}"
        )

    return Annotations(
        [picture for picture, _ in pairs],
        list(range(1, len(pairs) + 1)),
        [file.size for file in parsed],
        lambda number: pairs[number][1],
        owners,
        # pixels are counted from 1, and the last one belongs to the box
        np.array([*boxes], np.float64).reshape(-1, 4) - np.array([1.0, 1.0, 0.0, 0.0]),
        np.array([labels.get(name, -1) for name in names], np.int64),
        np.array([*difficult], bool),
        np.full(len(owners), np.nan),
        name_object,
    )
