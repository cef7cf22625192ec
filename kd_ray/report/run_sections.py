"""The page's part about runs: what differs, how each went, and how to repeat it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.report.cost_tables import cost_cells, costs_of_run, costs_side_by_side
from kd_ray.report.html import Html, h, joined
from kd_ray.report.losses import COUNTED_ONLY, losses
from kd_ray.report.runs import (
    TIES_WARNING,
    Run,
    as_text,
    compare_configs,
    event_counts,
    flatten,
    when,
)
from kd_ray.report.tables import NONE, TIMES, parameters, percent

MAX_EVENTS = 40
"""Events of a run that are listed; all are counted by kind."""

FEW_RUNS = 8
"""Up to this many runs are columns of the table of differences; more are its rows."""


def runs_section(runs: Sequence[Run]) -> Html:
    """Students, teachers, experts, other runs: what differs within each group, then run by run."""
    groups = [
        ("student", "Students"),
        ("teacher", "Teachers"),
        ("expert", "Text experts"),
        ("other", "Other runs"),
    ]
    parts = []
    for kind, title in groups:
        members = [run for run in runs if run.kind == kind]
        if members:
            parts.append(_group(title, members))
    return joined(parts)


def _group(title: str, runs: Sequence[Run]) -> Html:
    shared, differing = compare_configs(runs)
    parts = [h("<h3>{title}</h3>", title=title)]
    if len(runs) > 1 and differing:
        parts.append(_differences(runs, differing))
    costs = costs_side_by_side(runs)
    if costs is not None:
        parts.append(h("<h4>What the teachers cost</h4>{table}", table=_plain_table(*costs)))
    parts.append(_shared(shared, len(runs)))
    blocks = joined(_run(run) for run in runs)
    if len(runs) > FEW_RUNS:
        blocks = h(
            '<details class="more"><summary>Each of the {n} runs</summary>{blocks}</details>',
            n=len(runs),
            blocks=blocks,
        )
    return joined([*parts, blocks])


def _differences(runs: Sequence[Run], differing: Mapping[str, Sequence[Any]]) -> Html:
    keys = list(differing)
    if len(runs) <= FEW_RUNS:
        head = ["setting", *(run.label for run in runs)]
        rows = [[key, *map(as_text, differing[key])] for key in keys]
    else:
        head = ["run", *keys]
        rows = [
            [run.label, *(as_text(differing[key][index]) for key in keys)]
            for index, run in enumerate(runs)
        ]
    table = _plain_table(head, rows)
    if len(rows) <= 16:
        return table
    return h(
        '<details class="more"><summary>What differs between their configurations ({n} settings)'
        "</summary>{table}</details>",
        n=len(keys),
        table=table,
    )


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    return h(
        '<div class="card scroll"><table class="data"><thead><tr>{head}</tr></thead>'
        "<tbody>{rows}</tbody></table></div>",
        head=joined(h('<th scope="col">{t}</th>', t=text) for text in head),
        rows=joined(
            h(
                '<tr><th scope="row">{first}</th>{others}</tr>',
                first=row[0],
                others=joined(h("<td>{t}</td>", t=text) for text in row[1:]),
            )
            for row in rows
        ),
    )


def _shared(shared: Mapping[str, Any], count: int) -> Html:
    text = "\n".join(f"{key}: {as_text(value)}" for key, value in shared.items())
    title = "Configuration" if count == 1 else "What their configurations share"
    return h(
        '<details class="more"><summary>{title} ({n} settings)</summary>'
        "<pre>{text}</pre></details>",
        title=title,
        n=len(shared),
        text=text,
    )


def _run(run: Run) -> Html:
    badge = "ok" if run.finished else "bad"
    notable = run.faults or run.warns_of_ties
    facts = [
        f"kd-ray {run.command}",
        _best(run),
        _average(run),
        _counted(_epochs(run), "epoch"),
        _counted(run.summary.get("updates"), "update"),
        duration(run.summary.get("seconds")),
        _size(run.summary.get("parameters")),
    ]
    summary = joined(h("<span>{fact}</span>", fact=fact) for fact in facts if fact)
    faults = (
        h('<span class="badge warn">{n}</span>', n=_counted(len(run.faults), "fault or decision"))
        if run.faults
        else Html("")
    )
    inside = joined(
        [_signal(run), _costs(run), _losses(run), _workers(run), _events(run), _repeat(run)]
    )
    return h(
        '<details class="run card"{open}><summary><b>{label}</b>'
        '<span class="badge {badge}">{status}</span>{faults}{summary}</summary>'
        '<div class="inside">{inside}</div></details>',
        open=Html(" open") if notable else Html(""),
        label=run.label,
        badge=badge,
        status=run.status,
        faults=faults,
        summary=summary,
        inside=inside,
    )


def _best(run: Run) -> str:
    """The best validation figure: BLEU of a translator, else the error rate."""
    bleus = [(row["bleu"], row.get("epoch")) for row in run.valid if _number(row.get("bleu"))]
    if bleus:
        value, epoch = max(bleus, key=lambda pair: pair[0])
        return f"best validation BLEU {percent(value)}" + (f" in epoch {epoch}" if epoch else "")
    value, epoch = run.summary.get("best_error_rate"), run.summary.get("best_epoch")
    if not _number(value):
        return ""
    return f"best validation error {percent(value)} %" + (f" in epoch {epoch}" if epoch else "")


def _average(run: Run) -> str:
    """What the average of the last models has in place of the best one's figure."""
    average = run.summary.get("average")
    if not isinstance(average, Mapping):
        return ""
    bleu, error = average.get("bleu"), average.get("error_rate")
    figure = f"BLEU {percent(bleu)}" if _number(bleu) else f"error {percent(error)} %"
    return f"average of the last {len(average['updates'])}: {figure}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _epochs(run: Run) -> int | None:
    epochs = run.summary.get("epochs") or max((row.get("epoch", 0) for row in run.valid), default=0)
    return int(epochs) or None


def _size(value: Any) -> str:
    return f"{parameters(value)} parameters" if isinstance(value, int | float) else ""


def _counted(count: Any, noun: str) -> str:
    if not isinstance(count, int):
        return ""
    plural = "faults and decisions" if noun == "fault or decision" else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def duration(seconds: Any) -> str:
    """`95 s` as `1 min 35 s`."""
    if not isinstance(seconds, int | float):
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _signal(run: Run) -> Html:
    """What the teachers' signals were like: ties, zero errors, what was missing or dropped."""
    rows: list[tuple[str, str, bool]] = []
    names = {"share_of_ties": "ties between teachers", "share_of_zero_error": "zero errors"}
    for key, name in names.items():
        share = run.ties.get(key)
        if isinstance(share, int | float):
            rows.append((name, f"{100 * share:.1f} % of utterances", share > TIES_WARNING))
    signal = run.summary.get("signal")
    for key, value in flatten(signal if isinstance(signal, Mapping) else {}).items():
        if key == "teacher_s" and (not value or costs_of_run(run)):
            continue  # Out of a store no teacher ran; else it is among the costs.
        text = f"{value:.3g}" if isinstance(value, float) else as_text(value)
        name = "seconds of teacher computation" if key == "teacher_s" else key.replace("_", " ")
        rows.append((name, text, False))
    if not rows:
        return Html("")
    lines = [
        (
            name,
            f"{text}; more than half: error rates hardly choose between teachers" if warn else text,
        )
        for name, text, warn in rows
    ]
    return h(
        "<h4>Teachers&rsquo; signals</h4>{table}", table=_plain_table(["measure", "value"], lines)
    )


def _costs(run: Run) -> Html:
    cells = cost_cells(run)
    if cells is None:
        return Html("")
    return h("<h4>What the teachers cost</h4>{table}", table=_plain_table(*cells))


def _losses(run: Run) -> Html:
    """Hosts and teachers that were lost, and what was done about it."""
    signal = run.summary.get("signal")
    rows = losses(run.events, signal if isinstance(signal, Mapping) else {})
    if not rows:
        return Html("")
    return h(
        "<h4>Losses of teachers</h4>{table}", table=_plain_table(["who", "what became of it"], rows)
    )


def _workers(run: Run) -> Html:
    """How many workers each group had, where that could change."""
    groups = [event for event in run.events if event.get("kind") == "worker_count"]
    if not groups:
        return Html("")
    rows = [
        (
            when(group["time"]) if "time" in group else NONE,
            f"{group.get('now')} of at most {group.get('most')}",
            str(group.get("reason", NONE)),
        )
        for group in groups
    ]
    return h("<h4>Workers</h4>{table}", table=_plain_table(["from", "workers", "because of"], rows))


def _events(run: Run) -> Html:
    if not run.events:
        return Html('<h4>Events</h4><p class="note">None was logged.</p>')
    counts = ", ".join(f"{count} {TIMES} {kind}" for kind, count in event_counts(run.events))
    rows = []
    listed = [event for event in run.events if event.get("kind") != COUNTED_ONLY]
    for event in listed[:MAX_EVENTS]:
        details = flatten({k: v for k, v in event.items() if k not in ("time", "kind")})
        text = ", ".join(f"{key}={as_text(value)}" for key, value in details.items())
        rows.append(
            h(
                '<tr><th scope="row">{time}</th><td>{kind}</td><td class="wrap">{text}</td></tr>',
                time=when(event["time"]) if "time" in event else NONE,
                kind=event.get("kind", "unnamed"),
                text=text or NONE,
            )
        )
    left = len(listed) - len(rows)
    more = h('<p class="note">{n} later events are in events.jsonl.</p>', n=left) if left else ""
    return h(
        '<h4>Events: {counts}</h4><div class="card scroll"><table class="data"><thead><tr>'
        "<th>time</th><th>kind</th><th>details</th></tr></thead><tbody>{rows}</tbody></table></div>"
        "{more}",
        counts=counts,
        rows=joined(rows),
        more=more,
    )


def _repeat(run: Run) -> Html:
    return h(
        "<h4>Repeat it, under another name</h4><pre>{command}</pre>", command=run.repeat_command()
    )
