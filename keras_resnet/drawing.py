"""Figures as PNG: names are drawn as they are, and a failed drawing costs no run."""

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
    """A matplotlib figure as PNG, every title and label in it drawn as it is.

    A name is no formula, whatever dollars are in it, and a folder's may have bytes that
    are no UTF-8. Of axes the labels of ticks are not covered: they are made as they are
    drawn.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def drawable(name: str) -> str:
    """A name as matplotlib takes it: bytes that are no UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def attempted(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong in drawing `path` into a line on stderr."""
    try:
        yield
    except Exception as error:  # whatever it is, a trained model is worth more
        reason = " ".join(str(error).split()) or type(error).__name__
        print(drawable(f"{path}: cannot be drawn ({reason})"), file=sys.stderr)
