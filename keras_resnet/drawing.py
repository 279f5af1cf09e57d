"""Figures as PNG or SVG, with any text in them, and without failing a run."""

from __future__ import annotations

import contextlib
import io
import re
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
    _make_literal(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """A matplotlib figure as an <svg> element of HTML, in the text's colour and font.

    What is black becomes the colour of the text around it, and what is white is left
    out, so that it suits a light page and a dark one.
    Names are drawn as `png` draws them.
    """
    import matplotlib

    _make_literal(figure)
    stream = io.StringIO()
    # ids are hashes of contents and of the salt: equal ones in a page are the same
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "0"}):
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=none)
    element = stream.getvalue().partition("<svg")[2]
    # HTML knows the name spaces, and its style sheet the fonts
    element = re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)
    element = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", element)
    for colour, ours in (("#000000", "currentColor"), ("#ffffff", "none")):
        element = element.replace(colour, ours)
    return "<svg" + element


def _make_literal(figure: Figure) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))


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
