"""What a training run's folder holds: configuration, environment, figures, events, summary."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kd_ray.evaluation.run_folder import EVENTS, bring_events, read_json_lines
from kd_ray.report.systems import (
    EvaluatedSystem,
    Evaluation,
    ReportError,
    read_json,
)
from kd_ray.storage import fetched_folder, shown

ROUTINE_EVENTS = frozenset(
    {"started", "worker_started", "pool_started", "pool_attached", "resumed", "finished"}
    | {"checkpoint", "ties_warning"}
)
"""Kinds of events that are no fault; every other kind is counted as a fault or decision.

The page warns of ties from the summary's shares, so their event is not counted again.
"""

TIES_WARNING = 0.5
"""Share of ties or of zero errors above which error rates hardly choose between teachers."""


RunKind = Literal["teacher", "student", "expert", "other"]


@dataclass(frozen=True)
class Run:
    """A run folder, read. Error rates in `valid` are in percent."""

    label: str
    folder: Path
    kind: RunKind
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    train: Sequence[Mapping[str, Any]]
    """Lines of kind `train`, one an update, in the order of updates."""
    valid: Sequence[Mapping[str, Any]]
    """Lines of kind `valid`, in the order of updates."""
    events: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]

    @property
    def command(self) -> str:
        """Which `kd-ray` command wrote the folder."""
        return str(self.summary.get("command") or self.config.get("command") or "train")

    @property
    def name(self) -> str:
        """The run's name, as in `runs/<name>`."""
        return str(self.config.get("name") or self.summary.get("name") or self.folder.name)

    @property
    def status(self) -> str:
        """What the summary says, or that there is none."""
        return str(self.summary.get("status") or "no summary: not finished")

    @property
    def finished(self) -> bool:
        """Whether the run ended as it should."""
        return self.status in ("finished", "done", "completed", "complete", "ok", "success")

    @property
    def faults(self) -> list[Mapping[str, Any]]:
        """Events that are no routine."""
        return [event for event in self.events if event.get("kind") not in ROUTINE_EVENTS]

    @property
    def ties(self) -> Mapping[str, Any]:
        """Shares of ties and zero errors among the teachers, if the run had teachers."""
        return _mapping(self.summary.get("ties"))

    @property
    def warns_of_ties(self) -> bool:
        """Whether ties or zero errors are more than half."""
        shares = (self.ties.get("share_of_ties"), self.ties.get("share_of_zero_error"))
        return any(isinstance(s, int | float) and s > TIES_WARNING for s in shares)

    def repeat_command(self) -> str:
        """A command that trains the same again, into a folder of its own."""
        return repeat_command(self.command, self.name)


def repeat_command(command: str, name: str) -> str:
    """The resolved configuration is a configuration: run it under a new name."""
    return (
        f"kd-ray {command} {shlex.quote(f'runs/{name}/config.json')} "
        f"{shlex.quote(f'name={name}-repeat')}"
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _by_update(rows: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Rows of a kind; after a resume the later line of an update counts."""
    latest = {int(row["update"]): row for row in rows if row.get("kind") == kind}
    return [latest[update] for update in sorted(latest)]


def read_run(folder: Path, label: str, kind: RunKind) -> Run:
    """Read a run folder. Only `config.json` must exist: an unfinished run can be reported."""
    with fetched_folder(folder, only=lambda name: "/" not in name and name != EVENTS) as here:
        bring_events(here)
        return _read_fetched(folder, here, label, kind)


def _read_fetched(asked: Path, folder: Path, label: str, kind: RunKind) -> Run:
    if not (folder / "config.json").exists():
        raise ReportError(
            f"run {label!r}: {shown(asked)} holds no config.json, so it is not a run folder; "
            "give the folder runs/<name> that `kd-ray` wrote"
        )
    figures = _lines(folder / "metrics.jsonl")
    optional = {
        name: read_json(path) if (path := folder / f"{name}.json").exists() else {}
        for name in ("environment", "summary")
    }
    return Run(
        label=label,
        folder=folder,
        kind=kind,
        config=read_json(folder / "config.json"),
        environment=optional["environment"],
        train=_by_update(figures, "train"),
        valid=_by_update(figures, "valid"),
        events=_lines(folder / "events.jsonl"),
        summary=optional["summary"],
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """What a run wrote line by line; nothing where it has not begun to."""
    return read_json_lines(path) if path.exists() else []


def read_runs(folders: Mapping[str, Path], results: Evaluation[Any]) -> list[Run]:
    """Run folders by label, teachers told from students by the evaluation's systems.

    A run belongs to a system that has its label, or whose folder lies in the run's.
    """
    return [read_run(f, label, _kind(label, f, results)) for label, f in folders.items()]


def _kind(label: str, folder: Path, results: Evaluation[Any]) -> RunKind:
    for system in results.systems:
        if system.label == label:
            return _run_kind(system)
    for system in results.systems:
        if _holds(folder, Path(system.folder)):
            return _run_kind(system)
    return "other"


def _run_kind(system: EvaluatedSystem) -> RunKind:
    # A cascade is trained by no run of its own.
    return "other" if system.kind == "cascade" else system.kind


def _holds(run: Path, checkpoint: Path) -> bool:
    """Whether a checkpoint folder is or lies in a run folder.

    Evaluations name folders relative to the root, which only their ends can be compared with:
    `runs/a/model` lies in `/anywhere/runs/a`.
    """
    if checkpoint.is_absolute():
        return run.resolve() in (checkpoint.resolve(), *checkpoint.resolve().parents)
    here = run.resolve().parts
    candidates = [checkpoint.parts, checkpoint.parent.parts]
    return any(parts and here[-len(parts) :] == parts for parts in candidates)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def compare_configs(
    runs: Sequence[Run],
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(what all runs share, what differs: dotted key to one value a run).

    A key that a run does not have counts as `Absent`; `name` is left out, it always differs.
    """
    flats = [flatten(run.config) for run in runs]
    shared: dict[str, Any] = {}
    differing: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for flat in flats for key in flat):
        if key == "name":
            continue
        values = [flat.get(key, ABSENT) for flat in flats]
        if all(value == values[0] for value in values):
            shared[key] = values[0]
        else:
            differing[key] = values
    return shared, differing


class Absent:
    """A key that a configuration does not have."""

    def __str__(self) -> str:
        return "\N{EN DASH}"


ABSENT = Absent()


def as_text(value: Any) -> str:
    """A configuration value as one would write it on the command line."""
    if isinstance(value, str | Absent):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def when(value: Any) -> str:
    """A time (seconds since 1970, or ISO 8601) as `2025-01-31 12:00:00 UTC`."""
    try:
        moment = (
            datetime.fromtimestamp(value, UTC)
            if isinstance(value, int | float)
            else datetime.fromisoformat(str(value))
        )
    except (ValueError, OverflowError, OSError):
        return str(value)
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def event_counts(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """How many events of each kind, most frequent first."""
    return Counter(str(event.get("kind", "unnamed")) for event in events).most_common()


def environment_facts(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Commit, date, hardware, versions, commands and what else is known, all distinct values."""
    facts: dict[str, list[str]] = {title: [] for title in _GROUPS}
    for environment in environments:
        found: dict[str, list[str]] = {}
        for key, value in environment.items():
            title = next((t for t, keys in _GROUPS.items() if key in keys), key.capitalize())
            if text := _fact(key, value):
                found.setdefault(title, []).append(text)
        for title, texts in found.items():
            text = ", ".join(texts)
            if text not in facts.setdefault(title, []):
                facts[title].append(text)
    if len(facts["Date"]) > 2:
        facts["Date"] = [f"{min(facts['Date'])} to {max(facts['Date'])}"]
    return {title: _several(values) for title, values in facts.items() if values}


_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Commit": ("commit",),
    "Date": ("date", "time"),
    "Hardware": ("processor", "cpus", "gpus", "hardware", "platform"),
    "Versions": ("python", "packages", "versions"),
    "Started by": ("command",),
}


def _fact(key: str, value: Any) -> str:
    if key in _GROUPS["Date"]:
        return when(value)[:10]
    if isinstance(value, Mapping):
        inner = {k: v for k, v in flatten(value).items() if v not in (None, [], {}, "")}
        return ", ".join(f"{k} {as_text(v)}" for k, v in inner.items())
    if isinstance(value, list | tuple):
        return " ".join(as_text(item) for item in value)
    text = "" if value is None else as_text(value)
    # A bare number or version says nothing without its name.
    return (
        f"{value} CPUs" if key == "cpus" and text else f"python {text}" if key == "python" else text
    )


def _several(values: Sequence[str]) -> str:
    if len(values) <= 3:
        return "; ".join(values)
    return "; ".join(values[:3]) + f"; and {len(values) - 3} more"
