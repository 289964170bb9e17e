"""Small pieces of HTML as strings; everything that comes from files is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from deepatlas.report.drawing import png_uri, svg_text

DASH = "–"


def text(value: Any) -> str:
    """Any value as escaped text."""
    return html.escape(str(value))


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: few digits, tiny ones not hidden as 0, and a dash for none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if isinstance(value, int):
        shown = f"{value:,d}"
    elif abs(value) >= 0.5 * 10**-digits:
        shown = f"{value:,.{digits}f}"
    else:
        shown = f"{value:.1g}"
    return shown.replace("-", "−")


def interval(bounds: Any, digits: int = 3) -> str:
    """Two bounds as "0.812 to 0.834", or a dash."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        return DASH
    low, high = (number(b, digits) for b in bounds)
    return DASH if DASH in (low, high) else f"{low} to {high}"


def section(name: str, title: str, *parts: str) -> str:
    """A section with its heading, to which the navigation links."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{text(title)}</h2>\n{body}</section>'
    )


def note(sentence: str, command: str | None = None) -> str:
    """A remark to the reader, with the command that would help if there is one."""
    after = f"\n<pre><code>{text(command)}</code></pre>" if command else ""
    return f'<div class="note" role="note"><p>{text(sentence)}</p></div>{after}'


def facts(items: Iterable[tuple[str, Any]]) -> str:
    """Short names and values in a grid; empty values are left out."""
    cells = [
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in items
        if value not in (None, "")
    ]
    return f'<dl class="facts">{"".join(cells)}</dl>' if cells else ""


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()
) -> str:
    """A table whose cells are already HTML; the first of a row is its heading.

    Parameters
    ----------
    words : columns (by number) of text rather than numbers, set to the left.
    """
    lined = [' class="text"' if index in words else "" for index in range(len(head))]
    top = "".join(f'<th scope="col"{c}>{text(h)}</th>' for h, c in zip(head, lined, strict=True))
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td{c}>{cell}</td>" for cell, c in zip(rest, lined[1:], strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def folded(title: str, body: str, *, opened: bool = False) -> str:
    """A part that the reader opens."""
    return f"<details{' open' if opened else ''}><summary>{text(title)}</summary>{body}</details>"


def film(
    figure: Figure, *, alt: str, caption: str, most_bytes: int = 280_000, exact: bool = False
) -> str:
    """A figure of images as an embedded PNG (see `png_uri`); `caption` is HTML."""
    uri = png_uri(figure, most_bytes=most_bytes, exact=exact)
    width, height = figure.get_size_inches()
    kinds = ("wide-figure", "film wide-film") if width > 8 else ("", "film")
    return (
        f'<figure class="{kinds[0]}"><div class="{kinds[1]}"><img src="{uri}" alt="{text(alt)}" '
        f'width="{round(100 * width)}" height="{round(100 * height)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def plot(figure: Figure, *, name: str, alt: str, caption: str) -> str:
    """A figure of lines and bars as inline SVG in the page's colours; `caption` is HTML."""
    return (
        f'<figure><div class="paper">{svg_text(figure, label=alt, name=name)}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def keys(colours: Mapping[str, str], lines: Mapping[str, str] | None = None) -> str:
    """A legend: colour swatches by name, and line kinds ("line" or "line dash") by name."""
    items = [f'<li><i class="{kind}"></i>{text(name)}</li>' for name, kind in (lines or {}).items()]
    items += [f'<li><i style="background:{c}"></i>{text(n)}</li>' for n, c in colours.items()]
    return f'<ul class="keys">{"".join(items)}</ul>' if items else ""


def code(body: str) -> str:
    """Text as it stands."""
    return f"<pre><code>{text(body)}</code></pre>"
