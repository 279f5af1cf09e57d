"""Parses a file in COCO's format to lists of objects with unique ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_resnet.data.annotated.listing import fault, find_twice, read_text, show

MAX_BYTES = 2**32  # COCO's largest file has a tenth; parsing takes several times this
_KEYS = ("images", "annotations", "categories")
Entry = dict[str, Any]


def parse_file(file: Path) -> dict[str, list[Entry]]:
    """The three lists of a file, whose entries are known to be objects."""
    text = read_text(file, MAX_BYTES)
    try:
        content = json.loads(text, object_hook=_without_outlines)
    except RecursionError as error:
        problem = "nested too deeply to be COCO's format"
        raise fault(file, problem, "export it again") from error
    except ValueError as error:  # also a number of too many digits
        raise fault(file, f"not JSON ({error})", "export it again") from error
    if not isinstance(content, dict):
        problem = f"{show(content)}, not an object"
        raise fault(file, problem, "give a file in COCO's format")
    for key in _KEYS:
        if key not in content:
            problem = f"has no {key!r} but {show(sorted(content))}"
            raise fault(file, problem, f"it must have {', '.join(_KEYS)}")
        if not isinstance(content[key], list):
            problem = f"{key!r} is {show(content[key])}"
            raise fault(file, problem, "it must be a list")
        for number, entry in enumerate(content[key]):
            if type(entry) is not dict:
                problem = f"{key}[{number}] is {show(entry)}"
                raise fault(file, problem, "it must be an object")
    return content


def _without_outlines(entry: Entry) -> Entry:
    entry.pop("segmentation", None)  # most of the memory that COCO would take
    return entry


def read_ids(file: Path, what: str, entries: list[Entry], key: str) -> list[int]:
    """An integer of each entry."""
    values: list[Any] = [entry.get(key) for entry in entries]
    for number, value in enumerate(values):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            problem = f"{what}[{number}] has {key} {show(value)}"
            if key not in entries[number]:
                problem = f"{what}[{number}] has no {key!r} ({show(entries[number])})"
            raise fault(file, problem, "it must be an integer of 64 bits")
    return values


def read_unique_ids(file: Path, what: str, entries: list[Entry]) -> list[int]:
    ids = read_ids(file, what, entries, "id")
    if (twice := find_twice(ids)) is not None:
        raise fault(file, f"{what}: id {twice} is there twice", "remove one of them")
    return ids
