"""How runs are doing, as text for a terminal: one run at length, several as a line each."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.report.progress import how_far, how_fast, lasting
from kd_ray.report.run_status import RunStatus

_STYLES = {
    "running": "green",
    "starting": "green",
    "finished": "bold green",
    "stale": "yellow",
    "stopped": "yellow",
    "unfinished": "yellow",
    "died": "red",
    "failed": "red",
}
_PLACES = ("kind", "update", "epoch", "seconds", "utterances", "tokens", "frames", "source_tokens")
"""Keys of a line of figures that are shown elsewhere."""


def show_run(status: RunStatus, console: Console) -> None:
    """One run, topic by topic; topics of which nothing is known are left out."""
    head = Text(f"{status.name}: ").append(status.state, _STYLES.get(status.state, ""))
    console.print(head.append(_since(status)), soft_wrap=True)
    rows = [
        ("progress", _progress(status)),
        ("error", status.error or ""),
        ("figures", _figures(status.train)),
        ("validation", _validation(status.valid)),
        ("best", _best(status)),
        ("time", _time(status.time_split)),
        ("speed", ", ".join(f"{_short(each)} {name}/s" for name, each in status.speeds.items())),
        ("teachers", _teachers(status.teachers)),
        ("costs", _costs(status.teachers)),
        ("events", ", ".join(f"{count} {kind}" for kind, count in status.events.items())),
        *(("", _event(each)) for each in status.latest_events),
        ("checkpoints", ", ".join(f"update {each}" for each in status.checkpoints)),
        ("folder", status.folder),
    ]
    for title, text in rows:
        if text:
            console.print(Text(f"  {title:<12}{text}"), soft_wrap=True)


def show_runs(statuses: Sequence[RunStatus], console: Console) -> None:
    """A line for each, and how many are in which state."""
    rows = [
        [
            Text(each.name),
            Text(each.state, _STYLES.get(each.state, "")),
            Text(
                ""
                if each.work is None or each.state == "finished"
                else "  ".join(how_far(each.work))
            ),
            Text(_note(each)),
            Text(_score(each.valid)),
            Text(_score(each.best)),
        ]
        for each in statuses
    ]
    titles = ["run", "state", "progress", "rate, time left", "validation", "best"]
    # Of a study that is over there is no progress to tell.
    filled = [place for place in range(len(titles)) if any(row[place].plain for row in rows)]
    table = Table(*(titles[place] for place in filled), box=None)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(row[place] for place in filled))
    console.print(table)
    counts: dict[str, int] = {}
    for each in statuses:
        counts[each.state] = counts.get(each.state, 0) + 1
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


def _since(status: RunStatus) -> str:
    parts = [f" ({status.command})" if status.command else ""]
    if status.state == "finished" and "seconds" in status.summary:
        parts.append(f", trained for {lasting(status.summary['seconds'])}")
    elif status.started is not None and status.heard_s is not None and status.state != "finished":
        ran_s = time.time() - status.heard_s - status.started
        parts.append(f" for {lasting(ran_s)}" if status.at_work else f" after {lasting(ran_s)}")
        parts.append(f" on {status.host}, process {status.pid}")
        parts.append(f", last sign of life {lasting(status.heard_s)} ago")
    return "".join(parts)


def _progress(status: RunStatus) -> str:
    if status.work is None or status.state == "finished":
        return ""
    parts = [status.work.what, *how_far(status.work)]
    parts += how_fast(status.work, status.rate, status.left_s)
    if status.moved_s is not None and status.moved_s > 30 and status.at_work:
        parts.append(f"nothing new for {lasting(status.moved_s)}")
    return "  ".join(parts)


def _figures(line: Mapping[str, Any]) -> str:
    shown = {
        key: value
        for key, value in line.items()
        if key not in _PLACES and not key.endswith("_s") and isinstance(value, int | float)
    }
    return "  ".join(f"{key} {value:.4g}" for key, value in shown.items())


def _validation(line: Mapping[str, Any]) -> str:
    if not line:
        return ""
    return f"epoch {line.get('epoch')}, update {line.get('update')}: {_scores(line)}"


def _scores(line: Mapping[str, Any]) -> str:
    if "bleu" in line:
        return f"BLEU {line['bleu']:.1f}  chrF++ {line.get('chrf++', 0.0):.1f}"
    heads = [key for key in line if key.startswith("error_rate_")]
    return "  ".join(f"{key.removeprefix('error_rate_')} {line[key]:.2f} %" for key in heads)


def _score(line: Mapping[str, Any]) -> str:
    if "bleu" in line:
        return f"BLEU {line['bleu']:.1f}"
    return f"{line['error_rate']:.2f} %" if "error_rate" in line else ""


def _best(status: RunStatus) -> str:
    if not status.best:
        return ""
    return f"epoch {status.best.get('epoch')}: {_scores(status.best)}"


def _time(split: Mapping[str, float]) -> str:
    total = sum(split.values())
    if not total:
        return ""
    shares = (f"{part} {100 * seconds / total:.0f} %" for part, seconds in split.items())
    return f"{', '.join(shares)} (latest updates)"


def _teachers(teachers: Mapping[str, Any]) -> str:
    if not teachers:
        return ""
    parts = [
        f"{teachers.get('number', '?')} by {teachers.get('strategy')} from {teachers.get('source')}"
        + (f" {teachers['pool']}" if "pool" in teachers else "")
    ]
    if "quorum" in teachers:
        parts.append(f"quorum {teachers['quorum']:g}")
    if "signals" in teachers:
        parts.append(f"{teachers['signals']} signals")
    if teachers.get("missing_answers"):
        parts.append(
            f"{teachers['missing_answers']} answers missing in "
            f"{teachers.get('shortened_signals')} signals"
        )
    if "teacher_s" in teachers:
        parts.append(f"{lasting(teachers['teacher_s'])} of computation")
    fill = teachers.get("store_fill")
    if fill is not None:
        parts.append(
            f"store {fill['committed']} of {fill['shards']} shards"
            if "shards" in fill
            else f"store cannot be read: {fill['error']}"
        )
    return ", ".join(parts)


def _costs(teachers: Mapping[str, Any]) -> str:
    costs = teachers.get("costs")
    if not costs:
        return ""
    return (
        f"{costs['requests']} requests, {costs['utterances']} utterances, "
        f"{costs['computed_rows']} rows computed, {costs['remembered_rows']} remembered; "
        f"student waited {100 * costs['wait_share']:.0f} % of its time"
    )


def _event(event: Mapping[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", 0)))
    details = ", ".join(
        f"{key}={value}" for key, value in event.items() if key not in ("time", "kind")
    )
    return f"{at} {event.get('kind')} {details}"[:300]


def _note(status: RunStatus) -> str:
    if status.error:
        return status.error.splitlines()[0][:60]
    if status.state == "stale" and status.heard_s is not None:
        return f"silent for {lasting(status.heard_s)}"
    if status.work is None:
        return ""
    return "  ".join(how_fast(status.work, status.rate, status.left_s))


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
