"""HTML that is escaped unless it says otherwise."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def h(template: str, /, **values: object) -> Html:
    """Fill `{name}` fields of a template; every value that is not `Html` is escaped."""
    return Html(template.format_map({name: escaped(value) for name, value in values.items()}))


def escaped(value: object) -> Html:
    """Markup for a value: itself if it is `Html`, else escaped (quotes too)."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts in a row, each escaped unless it is `Html`."""
    return Html(between.join(escaped(part) for part in parts))
