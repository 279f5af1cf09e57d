"""Figures as PNG files, with any text in them, and without failing a run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG, with every title and label drawn literally.

    Names of files may contain dollar signs, which matplotlib takes for formulas, and
    bytes that are not UTF-8, which it cannot draw. Tick labels that matplotlib creates
    while drawing are not covered.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def drawable(name: str) -> str:
    """A name that matplotlib can draw: bytes that are not UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def attempted(path: str | Path) -> Iterator[None]:
    """Prints a line to stderr if drawing `path` raises an error, and goes on."""
    try:
        yield
    except Exception as error:  # no failure to draw may lose a trained model
        reason = " ".join(str(error).split()) or type(error).__name__
        print(drawable(f"{path}: cannot be drawn ({reason})"), file=sys.stderr)
