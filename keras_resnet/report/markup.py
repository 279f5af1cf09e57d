"""HTML of which everything that is not `Markup` already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from keras_resnet.drawing import drawable


class Markup(str):
    """Text that is HTML, and is not escaped again."""


def text(value: object) -> Markup:
    """A value as HTML; None as a hyphen, and markup as it is."""
    if isinstance(value, Markup):
        return value
    return Markup("-" if value is None else html.escape(drawable(str(value))))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element of HTML; `class_` is its class."""
    given = "".join(
        f' {name.rstrip("_")}="{text(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{given}>{joined(*children)}</{tag}>")


def joined(*children: object) -> Markup:
    """Values one after another."""
    return Markup("".join(map(text, children)))


def section(title: str, *children: object) -> Markup:
    """A part of the page, with its heading."""
    return element("section", element("h2", title), *children)


def fold(summary: str, *children: object) -> Markup:
    """A part that a click opens."""
    return element("details", element("summary", summary), *children)


def table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> Markup:
    """A table whose first column is its rows' headings."""
    head = element("tr", *(element("th", it, scope="col") for it in columns))
    lines = [
        element(
            "tr",
            *(
                element("td", it) if place else element("th", it, scope="row")
                for place, it in enumerate(row)
            ),
        )
        for row in rows
    ]
    inner = element("table", element("thead", head), element("tbody", *lines))
    return element("div", inner, class_="wide")


def with_code(sentence: str) -> Markup:
    """A sentence with what is between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", text(sentence)))
