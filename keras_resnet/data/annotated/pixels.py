"""Reads the headers of pictures, and the class numbers in masks, with Pillow."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin
from PIL import WebPImagePlugin as WebP

from keras_resnet.data.annotated.listing import fault
from keras_resnet.data.folders import map_files, preflight_problem
from keras_resnet.data.transforms.decode import LONGEST_MAGIC, MAX_PIXELS, sniff
from keras_resnet.data.transforms.letterbox import IGNORED

# called directly, since Image.open would warn of large pictures
_HEADERS: dict[str, Callable] = {
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebP.WebPImageFile,
}
_MODES = ("1", "L", "P")
_DEPTH = 24  # the byte of a PNG that holds the bits of a sample


def read_headers(function: Callable, *columns: Sequence) -> list:
    """`map_files` of a function of headers, without the warnings of Pillow."""
    with warnings.catch_warnings():  # for all threads, so around them
        warnings.simplefilter("ignore")
        return list(map_files(function, *columns))


def read_size(file: str) -> tuple[int, int]:
    """(width, height) in the header of a picture, which is opened once.

    Raises:
        DataError: it is missing or not a picture, or has more than MAX_PIXELS pixels.
    """
    return _read_header(file)[:2]


def check_mask(picture: str, mask: str) -> None:
    """Raises a DataError unless both headers fit together."""
    size = read_size(picture)
    width, height, form, mode = _read_header(mask)
    if form != "png" or mode not in _MODES:
        problem = f"a {form.upper()} file of mode {mode}, not class numbers"
        raise fault(mask, problem, "save it as a palette or 8-bit grey PNG")
    if (width, height) != size:
        problem = (
            f"{width} x {height} pixels, but its picture {picture} has "
            f"{size[0]} x {size[1]}"
        )
        raise fault(mask, problem, "make the mask again, without resizing")


def _read_header(file: str) -> tuple[int, int, str, str]:
    """(width, height, format, Pillow's mode)."""
    found = None
    try:
        if stat.S_ISREG(os.stat(file).st_mode):  # opening a named pipe would block
            with open(file, "rb") as stream:
                if form := sniff(stream.read(LONGEST_MAGIC)):
                    stream.seek(0)
                    image = _HEADERS[form](stream)
                    found = (*image.size, form, image.mode)
    except Exception:  # damaged files raise exceptions of many classes
        found = None
    if found is None:
        problem = preflight_problem(file) or "damaged: Pillow cannot read its header"
        raise fault(file, problem, "restore it, or remove it with its annotations")
    if found[0] * found[1] > MAX_PIXELS:
        problem = f"{found[0]} x {found[1]} pixels, more than {MAX_PIXELS:,}"
        raise fault(file, problem, "shrink it and its annotations")
    return found


def decode_mask(file: str | bytes, classes: int) -> np.ndarray:
    """Decodes a mask to class numbers, uint8 [H, W], in which 255 is no class.

    Raises:
        ValueError: the mask is damaged or has a number without a class. The message
            names the file and the number.
    """
    file = os.fsdecode(file)
    try:
        with open(file, "rb") as stream:
            content = stream.read()
        image = PngImagePlugin.PngImageFile(io.BytesIO(content))
        if image.mode not in _MODES:
            raise ValueError(f"mode {image.mode}")
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels")
        numbers = np.asarray(image).astype(np.uint8)
    except Exception as error:  # damaged files raise exceptions of many classes
        problem = f"the mask cannot be decoded ({error})"
        raise ValueError(str(fault(file, problem, "restore it"))) from error
    if image.mode == "L" and content[_DEPTH] < 8:
        numbers //= 255 // (2 ** content[_DEPTH] - 1)  # Pillow stretches to [0, 255]
    # counting is several times as fast as np.unique
    present = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    wrong = present[(present >= classes) & (present != IGNORED)]
    if len(wrong):
        problem = f"the mask has a pixel of {wrong[0]}, but there are {classes} classes"
        remedy = f"use the numbers 0 to {classes - 1}, or {IGNORED} for no label"
        raise ValueError(str(fault(file, problem, remedy)))
    return numbers
