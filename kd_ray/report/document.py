"""The frame of a self-contained page: nothing is fetched, all text is escaped."""

from collections.abc import Sequence
from datetime import datetime

from kd_ray import __version__
from kd_ray.report.html import Html, h, joined
from kd_ray.report.style import CSS

Part = tuple[str, str, Html]
"""Id, heading and content of a section; one without content is left out."""


def document(
    title: str,
    parts: Sequence[Part],
    *,
    origin: str,
    now: datetime,
    lead: str,
    warnings: Sequence[str] = (),
    footer: str,
) -> Html:
    """A page with a heading, a way to each of its sections, and the sections.

    Args:
        title: of the page.
        parts: its sections.
        origin: what the page is about, beside version and date.
        now: date of writing.
        lead: what it says, in a sentence or two.
        warnings: what to bear in mind, above everything else.
        footer: where its figures come from.
    """
    shown = [part for part in parts if part[2]]
    return h(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n"
        '<header><h1>{title}</h1><div class="byline">{byline}</div>'
        '<p class="lead">{lead}</p>{warnings}<nav>{links}</nav></header>\n'
        "{body}\n<footer>{footer}</footer>\n</main>\n</body>\n</html>\n",
        title=title,
        css=Html(CSS),
        byline=f"kd_ray {__version__} · {origin} · {now:%Y-%m-%d %H:%M} "
        f"{now.tzname() or ''}".rstrip(),
        lead=lead,
        warnings=_warnings(warnings),
        links=joined(h('<a href="#{id}">{name}</a>', id=i, name=n) for i, n, _ in shown),
        body=joined(
            h('<section id="{id}"><h2>{name}</h2>{inside}</section>', id=i, name=n, inside=inside)
            for i, n, inside in shown
        ),
        footer=footer,
    )


def _warnings(warnings: Sequence[str]) -> Html:
    if not warnings:
        return Html("")
    items = joined(h("<li>{text}</li>", text=text) for text in warnings)
    return h('<div class="warnings"><h2>To bear in mind</h2><ul>{items}</ul></div>', items=items)
