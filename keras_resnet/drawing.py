"""Figures as PNG; a figure that cannot be drawn does not end a run."""

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

    Dollar signs do not start formulas, and bytes that are not UTF-8 are escaped. The
    labels of ticks are not covered, since matplotlib makes them while it draws.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def drawable(name: str) -> str:
    """A name with escapes for bytes that are not UTF-8, as matplotlib needs it."""
    return name.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def attempted(path: str | Path) -> Iterator[None]:
    """A context that turns an error in drawing `path` into a line on stderr."""
    try:
        yield
    except Exception as error:  # whatever the error is, the run must not be lost
        reason = " ".join(str(error).split()) or type(error).__name__
        print(drawable(f"{path}: cannot be drawn ({reason})"), file=sys.stderr)
