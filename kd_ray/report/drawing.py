"""How plots look, and how a matplotlib figure becomes SVG inside a page.

Colours in the figures are stand-ins that the exported SVG replaces by CSS variables, so that one
drawing follows the page's light or dark scheme. Each variable carries a fall-back for an SVG that
is cut out of the page.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import takewhile
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE, TEACHER, BASE = (f"#0a0b{i:02x}" for i in range(6))
SERIES = tuple(f"#0a0c{i:02x}" for i in range(6))
PHASES = tuple(f"#0a0d{i:02x}" for i in range(4))

# Light scheme: the fall-backs. Okabe & Ito's colours, darkened to 3:1 on white where needed.
LIGHT: Mapping[str, tuple[str, str]] = {
    INK: ("--ink", "#1c2026"),
    MUTED: ("--muted", "#5c6470"),
    GRID: ("--grid", "#e3e5e8"),
    SURFACE: ("--surface", "#ffffff"),
    TEACHER: ("--teacher", "#9aa2ad"),
    BASE: ("--base", "#3d444d"),
    SERIES[0]: ("--series-1", "#0072b2"),
    SERIES[1]: ("--series-2", "#d55e00"),
    SERIES[2]: ("--series-3", "#009e73"),
    SERIES[3]: ("--series-4", "#b8528f"),
    SERIES[4]: ("--series-5", "#a67c00"),
    SERIES[5]: ("--series-6", "#3b9ddb"),
    PHASES[0]: ("--phase-1", "#3f5c82"),
    PHASES[1]: ("--phase-2", "#8eaed0"),
    PHASES[2]: ("--phase-3", "#cfdae6"),
    PHASES[3]: ("--phase-4", "#b9a06a"),
}

MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "kd_ray",
    "svg.fonttype": "none",
    # A label such as `a$b$` is a name, not mathematics.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.unicode_minus": True,
}


# A user's matplotlibrc must not change the page; `backend` is not ours to set.
_DEFAULTS: dict[Any, Any] = {
    key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")
}


@dataclass(frozen=True)
class Look:
    """How one system is drawn, the same in every plot."""

    color: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]


def looks_of(students: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """A look for each student: colour, marker and dashes together tell 18 of them apart."""
    looks = {}
    others = [label for label in students if label != baseline]
    for index, label in enumerate(others):
        turn, place = divmod(index, len(SERIES))
        looks[label] = Look(
            SERIES[place], MARKERS[(place + turn) % len(MARKERS)], DASHES[turn % len(DASHES)]
        )
    if baseline is not None:
        looks[baseline] = Look(BASE, "X", (0, (5, 1.5)))
    return looks


TEACHER_LOOK = Look(TEACHER, "o", "-")


@contextmanager
def figure(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure in the house look, off screen, without pyplot's global state."""
    with mpl.rc_context({**_DEFAULTS, **_SETTINGS}):
        drawing = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(drawing)
        yield drawing


def to_svg(drawing: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element: deterministic, ids prefixed by `name`, themed by CSS.

    Must be called inside `figure(...)`. `description` is read out by screen readers.
    """
    stream = io.StringIO()
    drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # matplotlib's own style element says `*`, which inside HTML would reach the whole page.
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", svg)
    for stand_in, (variable, fallback) in LIGHT.items():
        svg = svg.replace(stand_in, f"var({variable}, {fallback})")
    label = escape(description, quote=True)
    style = "stroke-linejoin: round; stroke-linecap: butt"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{style}" ', 1)


def short(label: str, limit: int = 30) -> str:
    """A label that fits beside a plot, cut in the middle."""
    if len(label) <= limit:
        return label
    tail = (limit - 1) // 2
    return f"{label[: limit - 1 - tail]}…{label[-tail:]}"


def short_names(labels: Sequence[str], limit: int = 30) -> dict[str, str]:
    """Short forms that stay distinct: where cutting makes labels alike, what differs is kept."""
    alike: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        alike.setdefault(short(label, limit), []).append(label)
    names = {}
    for cut, group in alike.items():
        if len(group) == 1:
            names[group[0]] = cut
            continue
        start = _common_start(group)
        end = _common_start([label[start:][::-1] for label in group])
        head = max(0, start - 8)
        for label in group:
            stop = len(label) - end
            stop += len(label[stop : stop + 8].split(" ")[0])  # to the end of the word
            kept = f"{label[: min(head, 9)]}…{label[head:stop]}…"
            names[label] = kept if len(kept) <= limit else label
    return names


def _common_start(texts: Sequence[str]) -> int:
    """How many characters all texts begin with alike."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in [low, high], as close to `wanted` as order allows.

    Neighbours that are too close become a block around the mean of their wishes; where all do not
    fit, the gap shrinks evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # (sum of wishes for the block's first place, members)
    for place, index in enumerate(order):
        del place
        total, members = wanted[index], 1
        while blocks:
            before, count = blocks[-1]
            if before / count + count * gap <= total / members:
                break
            blocks.pop()
            total, members = before + total - members * count * gap, count + members
        blocks.append((total, members))
    starts: list[float] = []
    for total, members in blocks:
        first = total / members
        starts += [first + k * gap for k in range(members)]
    positions = [0.0] * len(wanted)
    floor = low
    placed = []
    for start in starts:
        floor = max(start, floor)
        placed.append(floor)
        floor += gap
    ceiling = high
    for rank in range(len(placed) - 1, -1, -1):
        placed[rank] = min(placed[rank], ceiling)
        ceiling = placed[rank] - gap
    for rank, index in enumerate(order):
        positions[index] = placed[rank]
    return positions


def label_right(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    *,
    height_in: float,
    gap_pt: float = 12.0,
) -> None:
    """Names at the right edge of a plot, joined to their points (x, y, text, colour).

    `height_in` is about the plot's height, to turn points of text into units of y. Call it after
    the limits of y are set.
    """
    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"
    scale = math.log10 if logarithmic else float
    bottom, top = scale(low), scale(high)
    fractions = [(scale(y) - bottom) / (top - bottom) for _, y, _, _ in points]
    gap = gap_pt / (height_in * 72)
    for place, (x, y, text, color) in zip(spread(fractions, gap, 0, 1), points, strict=True):
        # The space keeps the line off the name; matplotlib's own shrinking is slow.
        axes.annotate(
            f" {text}",
            xy=(x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=8.5,
            color=INK,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.8,
                "alpha": 0.7,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Fine lines along one axis only."""
    axes.grid(visible=True, axis=axis)
