"""Parses one XML file in the format of Pascal VOC."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from keras_resnet.data.annotated.boxes import MAX_COORDINATE, Size
from keras_resnet.data.annotated.listing import check_class, fault, read_text, show

MAX_BYTES = 2**26
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Objects:
    """The objects of one file, boxes as xmin, ymin, xmax, ymax as they are there."""

    size: Size
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def read_objects(file: str) -> Objects:
    """Reads an XML file.

    Raises:
        DataError: it is broken. The message names the file, the object and the value.
    """
    text = read_text(Path(file), MAX_BYTES)
    if "<!ENTITY" in text:
        problem = "declares an XML entity ('<!ENTITY'), which could expand without end"
        raise fault(file, problem, "remove the declaration")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise fault(file, f"not XML ({error})", "export it again") from error
    if root.tag != "annotation":
        problem = f"its outermost element is {show(root.tag)}, not 'annotation'"
        raise fault(file, problem, "export it as Pascal VOC")
    size = root.find("size")
    sides = [None if size is None else size.findtext(s) for s in ("width", "height")]
    width, height = (
        None if side is None else _number(f"{file}: size", name, side)
        for name, side in zip(("width", "height"), sides)
    )
    objects = Objects((width, height))
    for number, element in enumerate(root.findall("object"), 1):
        _add(objects, f"{file}: object {number}", element)
    return objects


def _add(objects: Objects, place: str, element: ElementTree.Element) -> None:
    name = (element.findtext("name") or "").strip()
    check_class(place, name)
    box = element.find("bndbox")
    if box is None:
        raise fault(place, f"{show(name)} has no 'bndbox'", "add it")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise fault(place, f"difficult {show(difficult)}", "it must be 0 or 1")
    objects.names.append(name)
    objects.boxes.append([_number(place, side, box.findtext(side)) for side in _SIDES])
    objects.difficult.append(difficult == "1")


def _number(place: str, name: str, text: str | None) -> float:
    if text is None:
        raise fault(place, f"has no {name!r}", "add it")
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not -MAX_COORDINATE < number < MAX_COORDINATE:
        raise fault(place, f"{name} {show(text)}", "it must be a finite number")
    return number
