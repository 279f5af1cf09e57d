"""Lists the pictures of a folder, reads bounded text files, and words what is wrong."""

from __future__ import annotations

import os
import re
import reprlib
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from keras_resnet.data import folders
from keras_resnet.errors import DataError

SPLIT_NAMES = {**folders.SPLIT_NAMES, "val": (*folders.SPLIT_NAMES["val"], "valid")}
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_MAX_LIST = 2**28  # bytes of a file with names
_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def show(value: object) -> str:
    """The `repr` of a value that an annotation file holds, not too long."""
    return _short.repr(value)


def one_line(text: str) -> str:
    """The text without line breaks, which a file name may have."""
    return " ".join(text.splitlines())


def fault(place: object, problem: str, remedy: str) -> DataError:
    """A DataError of one line."""
    return DataError(one_line(f"{place}: {problem}; {remedy}"))


def read_text(file: Path, max_bytes: int) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: it cannot be read, is not UTF-8, or has more bytes than allowed.
    """
    try:
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would block
            raise fault(file, "not a file", "replace it by one")
        if found.st_size > max_bytes:
            problem = f"{found.st_size:,} bytes, of which {max_bytes:,} are allowed"
            raise fault(file, problem, "split the data set, or remove what is not used")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise fault(file, problem, "restore it, or make it readable") from error
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start}: {error.reason})"
        raise fault(file, problem, "save it as UTF-8") from error


def read_lines(file: Path) -> list[str]:
    """The names in a text file, one a line, each a different one."""
    names = [line.strip() for line in read_text(file, _MAX_LIST).split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise fault(file, "empty", "write one name a line")
    for number, name in enumerate(names, 1):
        if not name:
            raise fault(file, f"line {number} is empty", "remove it, or name it")
    if twice := find_twice(names):
        raise fault(file, f"{show(twice)} is there twice", "remove one of them")
    return names


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The names in `classes.txt`, or None if there is no such file."""
    file = root / "classes.txt"
    if not os.path.lexists(file):
        return None
    names = tuple(read_lines(file))
    for name in names:
        check_class(file, name)
    return names


def check_class(place: object, name: object) -> None:
    """Raises a DataError unless it is text of one line."""
    if not isinstance(name, str) or not name.strip():
        raise fault(place, f"class name {show(name)}", "must be text")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        problem = f"class name {show(name)} has a control character"
        raise fault(place, problem, "rename the class")


def check_name(place: object, name: object) -> None:
    """Raises a DataError unless it is a file name relative to a folder, and in it."""
    if not isinstance(name, str) or not name:
        raise fault(place, f"file name {show(name)}", "must be text")
    if _OUTSIDE.match(name):
        problem = f"file name {show(name)} is absolute or leads out of its folder"
        raise fault(place, problem, "make it relative to the pictures' folder")
    try:
        is_bad = b"\0" in os.fsencode(name)
    except UnicodeEncodeError:
        is_bad = True
    if is_bad:
        raise fault(place, f"file name {show(name)}", "no file can have it; rename it")


def find_twice(values: Iterable) -> object:
    """The first value that has been there before, or None."""
    seen: set = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def list_stems(folder: Path, suffixes: tuple[str, ...] | None) -> dict[str, str]:
    """{name without suffix: path} of a folder's visible files with these suffixes.

    None: with any suffix.
    """
    prefix = os.path.join(folder, "")  # one Path per file would take 1 KB and 10 us
    stems: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or (suffixes and suffix.lower() not in suffixes):
            continue
        if stem in stems:
            problem = (
                f"{os.path.basename(stems[stem])!r} and {name!r} share annotations"
            )
            raise fault(folder, problem, "rename or remove one of them")
        stems[stem] = prefix + name
    return stems
