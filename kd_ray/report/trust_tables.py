"""The report of trust as JSON, as CSV and as tables for a terminal."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.report.tables import between, percent, signed
from kd_ray.report.trust import FEW, MEASURES, TrustedGroup, TrustReport

MANY = 12
"""More teachers than this are cut in a terminal."""


def trust_json(found: TrustReport) -> str:
    """All of it, with unrounded numbers."""
    content: dict[str, Any] = asdict(found)
    content["strategies"] = {
        name: strategy.model_dump(mode="json", exclude={"table"})
        for name, strategy in found.strategies.items()
    }
    content["table"] = found.table.model_dump(mode="json")
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def trust_csv(found: TrustReport) -> str:
    """A line for each teacher in each group; the whole split is a group without a column."""
    stream = io.StringIO()
    names = list(found.strategies)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["column", "group", "utterances", "units", "teacher", "digest", "error_percent", "low",
         "high", "best", *(f"share_{name}" for name in names)]
    )  # fmt: skip
    for group in every_group(found):
        for index, teacher in enumerate(found.teachers):
            interval = group.intervals[index]
            writer.writerow(
                [group.column, group.name, group.utterances, group.units, teacher.name,
                 teacher.digest, group.error_percent[index], interval.low, interval.high,
                 int(index in group.best), *(group.shares[name][index] for name in names)]
            )  # fmt: skip
    return stream.getvalue()


def every_group(found: TrustReport) -> list[TrustedGroup]:
    """The whole split, then the groups of each column."""
    return [found.whole, *(group for groups in found.groups.values() for group in groups)]


def ranked(found: TrustReport) -> list[int]:
    """Teachers by their error on the whole split; ties by index."""
    rates = found.whole.error_percent
    return sorted(range(len(rates)), key=lambda index: (rates[index], index))


def best_text(found: TrustReport, group: TrustedGroup) -> str:
    """Who is best in a group, and whether that is sure."""
    names = [found.teachers[index].name for index in group.best]
    text = ", ".join(names) if len(names) <= 3 else f"{len(names)} teachers"
    if len(names) > 1:
        return f"{text} (equal)"
    return text if group.sure or group.lead is None else f"{text} (not sure)"


def lead_text(found: TrustReport, group: TrustedGroup) -> str:
    """By how much the next teacher is worse."""
    if group.runner_up is None or group.lead is None:
        return ""
    text = f"{found.teachers[group.runner_up].name} {signed(group.lead.difference)}"
    if group.utterances < FEW:
        return text
    return f"{text} ({signed(group.lead.interval.low)} to {signed(group.lead.interval.high)})"


def print_trust(found: TrustReport, console: Console) -> None:
    """The teachers, then the groups of each column."""
    console.print(_teachers(found))
    for column, groups in found.groups.items():
        console.print(_groups(found, column, groups))
    console.print(choices_text(found), highlight=False, markup=False)
    for note in found.notes:
        console.print(note, highlight=False, markup=False)


def choices_text(found: TrustReport) -> str:
    """What choosing teachers by group would bring at most."""
    choices = found.choices
    parts = [f"{percent(choices.once)} % with one for all"]
    parts += [
        f"{percent(value)} % with one for each {column}"
        for column, value in choices.by_column.items()
    ]
    parts.append(f"{percent(choices.each_utterance)} % with one for each utterance")
    return f"Error if the best teacher were chosen in hindsight: {', '.join(parts)}."


def _teachers(found: TrustReport) -> Table:
    names, measures = list(found.strategies), list(found.teachers[0].also)
    table = _table(
        f"{found.measure}, %, on {found.asked.split} ({found.whole.utterances} utterances), and "
        "mean weights",
        ["teacher", "error", "95 % interval", *(MEASURES[each] for each in measures), *names],
    )
    order = ranked(found)
    cut = order if len(order) <= MANY else [*order[: MANY - 1], order[-1]]
    for index in cut:
        teacher = found.teachers[index]
        table.add_row(
            Text(teacher.name),
            percent(found.whole.error_percent[index]),
            between(found.whole.intervals[index]),
            *(percent(teacher.also[measure]) for measure in measures),
            *(f"{found.whole.shares[name][index]:.3f}" for name in names),
        )
    if len(cut) < len(order):
        table.caption = f"{len(order) - len(cut)} of {len(order)} teachers are not shown here"
    return table


def _groups(found: TrustReport, column: str, groups: Sequence[TrustedGroup]) -> Table:
    table = _table(
        f"by {column}", [column, "utterances", "best", "error", "next", "ties", "no error"], left=3
    )
    for group in groups:
        table.add_row(
            Text(group.name),
            str(group.utterances),
            Text(best_text(found, group)),
            percent(group.error_percent[group.best[0]]),
            Text(lead_text(found, group)),
            f"{100 * group.tie_share:.0f} %",
            f"{100 * group.zero_share:.0f} %",
        )
    return table


def _table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    table = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if place < left else "right"
        table.add_column(Text(column), justify=justify, overflow="fold")
    return table
