"""Text and HTML that sections of the report are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.io.images import Image
from atlasmith.io.tables import MISSING
from atlasmith.report import pictures

CONVENTION = (
    "Left is on the left (neurological convention); anterior or superior is up; in sagittal planes, anterior "
    "is on the right."
)


def number_text(value: str | float) -> str:
    """Format a number in three significant digits, integers and numbers from 100 without decimals."""
    if value == MISSING:
        return "–"
    number = float(value)
    return f"{number:.0f}" if number.is_integer() or abs(number) >= 100 else f"{number:#.3g}"


def words(name: str) -> str:
    """Write the name of a method or metric as words."""
    return name.replace("_", " ")


def interval_text(row: Mapping[str, str]) -> str:
    """Format the 95 % interval of a row of the summary; empty where it has none."""
    if row["ci95_low"] == MISSING:
        return ""
    return f"{number_text(row['ci95_low'])} to {number_text(row['ci95_high'])}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Make a table.

    Args:
        head: Titles of the columns.
        rows: Cells as text, escaped here.
        text_columns: The first columns, aligned as text; the others hold numbers.

    Returns:
        HTML.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        classes = [" class=text" if column < text_columns else "" for column in range(len(cells))]
        return "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for cell, c in zip(cells, classes, strict=True))

    top, body = line(head, "th"), "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title: str, body: str) -> str:
    """Make a part that opens on a click, of HTML."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def note(text: str) -> str:
    """Make a paragraph of HTML that explains what is shown."""
    return f"<p class=soft>{text}</p>"


def picture_row(shown: Iterable[tuple[Array, str]], kind: str = "tiles") -> str:
    """Place pictures side by side.

    Args:
        shown: Pictures (rows, columns, 3), RGB bytes, with captions.
        kind: `tiles` of one width, or `planes` at one scale.

    Returns:
        HTML.
    """
    figures = "".join(
        f'<figure style="flex-grow:{pixels.shape[1]}"><img src="{pictures.png(pixels)}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for pixels, caption in shown
    )
    return f'<div class="{kind}">{figures}</div>'


def subject_heading(subject: str, reason: str) -> str:
    """Make the heading of a subject's pictures, with the reason for showing it if there is one."""
    return f"<h3>sub-{escape(subject)}{' · ' + escape(reason) if reason else ''}</h3>"


def legend(colors: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """Explain colors (RGB bytes)."""
    return note(
        "".join(
            f'<span class="key" style="background:rgb{color}"></span>{escape(name)}' for color, name in colors
        )
    )


def middle_plane(image: Image, axis: int) -> Array:
    """Cut an image in the middle of an axis: (rows, columns)."""
    return pictures.plane(image.data, image.grid, axis, image.grid.shape[axis] // 2)


def middle_picture(image: Image, axis: int, limits: tuple[float, float]) -> Array:
    """Show the middle plane in gray, from black at the lower limit: RGB bytes (rows, columns, 3)."""
    return pictures.gray(middle_plane(image, axis), limits)


def choose_examples(values: Mapping[str, float], ids: Sequence[str], count: int, name: str) -> dict[str, str]:
    """Choose subjects evenly by rank, from the lowest value to the highest.

    Args:
        values: By subject.
        ids: Subjects to choose from; the first ones where none has a value.
        count: The largest number of subjects.
        name: Of the value.

    Returns:
        The chosen subjects, with their rank and value in words.
    """
    ranked = sorted((value, subject) for subject, value in values.items() if subject in ids)
    if not ranked:
        return dict.fromkeys(ids[:count], "")
    places = sorted({round(place) for place in np.linspace(0, len(ranked) - 1, count).tolist()})
    last = len(ranked) - 1
    ranks = {last // 2: "median", (last + 1) // 2: "median", 0: "lowest", last: "highest"}
    chosen = {}
    for place in places:
        value, subject = ranked[place]
        rank = ranks.get(place, f"{place + 1} of {last + 1} by")
        chosen[subject] = f"{rank} {name}, {number_text(value)}"
    return chosen
