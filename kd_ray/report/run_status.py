"""How a run is doing, from its folder alone: no Ray, no model, no process is asked.

Any machine that sees the folder can look. Whether a process still works on the run is told by its
sign of life (`state.json`), and on its own machine by the process itself.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kd_ray.evaluation.heartbeat import BEAT_S, Process, RunState, Work, read_state
from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.report.runs import ROUTINE_EVENTS
from kd_ray.storage import place_of_processes

STALE_S = 60.0
"""Without a sign of life for so long, nobody seems to work on a run any more."""
_STARTING_FACTOR = 15
"""Nobody gives signs of life while hosts and workers are waited for, which may take minutes."""
_TAIL_BYTES = 256 << 10
_EVENTS = 5
INNER = ("checkpoints", "model", "best_model", "validated", "logs", "tensorboard", "hypotheses")
"""Folders within a run that are no runs."""

State = Literal[
    "waiting", "starting", "running", "stale", "died", "stopped", "failed", "unfinished", "finished"
]
AT_WORK = ("waiting", "starting", "running")


class NoRun(ValueError):
    """There is no run where somebody looked for one."""


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment.

    Its state is `waiting` where it has not begun, `stale` without a sign of life for a while,
    `died` where its process is gone, `unfinished` where nobody says how it ended.
    """

    name: str
    folder: str
    state: State
    command: str | None = None
    host: str | None = None
    pid: int | None = None
    started: float | None = None
    """Unix time, of the latest process."""
    heard_s: float | None = None
    """Since the last sign of life."""
    moved_s: float | None = None
    """Since more was done."""
    work: Work | None = None
    rate: float | None = None
    """Units of work a second."""
    left_s: float | None = None
    error: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    """The latest update's line of figures."""
    valid: Mapping[str, Any] = field(default_factory=dict)
    """The latest validation's."""
    best: Mapping[str, Any] = field(default_factory=dict)
    """The validation with the lowest error, as far as it was read."""
    time_split: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the latest updates: data, rollout, teacher, student."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Utterances, tokens, frames a second, over the same updates."""
    teachers: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    """Faults and decisions by kind."""
    latest_events: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[int] = ()
    """Updates that there are checkpoints of."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Of a finished run."""

    @property
    def at_work(self) -> bool:
        """Whether more is to be expected of it."""
        return self.state in AT_WORK


def find_runs(folder: Path) -> list[Path]:
    """Run folders in a folder (itself, if it is one), in the order of their names."""
    return sorted(_runs_in(folder))


def _runs_in(folder: Path) -> Iterator[Path]:
    command = _mapping(folder / "config.json").get("command")
    if command is not None:
        yield folder
        if command != "search":
            return
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.name.startswith(".") and inner.name not in INNER:
            yield from _runs_in(inner)


def read_status(
    folder: Path,
    name: str,
    *,
    stale_after_s: float = STALE_S,
    whole: bool = True,
    now: float | None = None,
) -> RunStatus:
    """How the run of a folder is doing.

    Args:
        folder: of the run; where it is missing, the run is `waiting`.
        name: of the run.
        stale_after_s: without a sign of life for so long, a run is `stale`.
        whole: read all figures and events; otherwise their last part.
        now: Unix time.
    """
    now = time.time() if now is None else now
    config = _mapping(folder / "config.json")
    if not config:
        return RunStatus(name, str(folder), "waiting")
    summary, state = _mapping(folder / "summary.json"), read_state(folder)
    train, valid = _figures(folder / "metrics.jsonl", whole)
    events = _lines(folder / "events.jsonl", None if whole else _TAIL_BYTES)
    faults = [each for each in events if each.get("kind") not in ROUTINE_EVENTS]
    judged = judge(state, summary, now, stale_after_s)
    lives = judged in AT_WORK and state is not None
    work = None if state is None else state.work
    return RunStatus(
        name=name,
        folder=str(folder),
        state=judged,
        command=config.get("command"),
        host=None if state is None else state.host,
        pid=None if state is None else state.pid,
        started=None if state is None else state.started,
        heard_s=None if state is None else max(0.0, now - state.beat),
        moved_s=None if state is None else max(0.0, now - state.moved),
        work=_work_of_figures(train, config) if work is None else work,
        rate=state.rate if lives and state is not None else None,
        left_s=state.left_s if lives and state is not None else None,
        error=None if state is None or judged == "finished" else state.error,
        train=train[-1] if train else {},
        valid=valid[-1] if valid else {},
        best=min(valid, key=lambda line: line.get("error_rate", float("inf")), default={}),
        time_split=_time_split(train),
        speeds=_speeds(train),
        teachers=_teachers(config, state, summary),
        events=dict(Counter(str(each.get("kind")) for each in faults).most_common()),
        latest_events=faults[-_EVENTS:],
        checkpoints=_checkpoints(folder),
        summary=summary,
    )


def judge(
    state: RunState | None, summary: Mapping[str, Any], now: float, stale_after_s: float
) -> State:
    """Whether somebody works on a run, or how it ended."""
    if summary.get("status") == "finished":
        # Averaging and the like come after: the summary is the last thing that a run writes.
        return "finished"
    if state is None:
        return "unfinished"
    if state.state in ("failed", "stopped"):
        return state.state
    if state.state == "finished":
        return "unfinished"
    # A worker group outlives each of its workers, and ends with the process that started it.
    decides = state.driver or Process(state.pid, state.place)
    here = decides.place is not None and decides.place == place_of_processes()
    if here and not _lives(decides.pid):
        return "died"
    patience_s = max(stale_after_s, 2 * BEAT_S)
    if state.state == "starting":
        patience_s *= _STARTING_FACTOR
    return "stale" if now - state.beat > patience_s else state.state


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _figures(path: Path, whole: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the latest updates, and of validations."""
    tail = _lines(path, _TAIL_BYTES)
    train = [line for line in tail if line.get("kind") == "train"]
    lines = _lines(path, None, having='"kind": "valid"') if whole else tail
    return train, [line for line in lines if line.get("kind") == "valid"]


def _lines(path: Path, last_bytes: int | None, having: str = "") -> list[dict[str, Any]]:
    """Lines of a JSON lines file; none where it cannot be read."""
    try:
        return read_json_lines(path, last_bytes=last_bytes, having=having)
    except OSError:
        return []


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _work_of_figures(train: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Work | None:
    """For a run that wrote no sign of life: how far its figures go."""
    if not train:
        return None
    epochs = config.get("training", {}).get("epochs")
    return Work("training", train[-1]["update"], epoch=train[-1].get("epoch"), epochs=epochs)


_PARTS = {
    "data": "data_s",
    "rollout": "rollout_s",
    "teacher": "teacher_wait_s",
    "student": "student_s",
}


def _time_split(train: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if not train:
        return {}
    return {part: sum(float(line.get(key, 0.0)) for line in train) for part, key in _PARTS.items()}


def _speeds(train: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    seconds = sum(_time_split(train).values())
    if not seconds:
        return {}
    counted = {
        name: sum(line.get(name, 0) for line in train)
        for name in ("utterances", "tokens", "frames", "source_tokens")
    }
    return {name: count / seconds for name, count in counted.items() if count}


def _teachers(
    config: Mapping[str, Any], state: RunState | None, summary: Mapping[str, Any]
) -> dict[str, Any]:
    section = config.get("teachers")
    if config.get("command") != "distill" or not isinstance(section, dict):
        return {}
    source = section.get("source") or {}
    found: dict[str, Any] = {
        "source": source.get("type"),
        "strategy": (section.get("strategy") or {}).get("type"),
        "quorum": source.get("quorum"),
        "pool": source.get("name"),
        "store": source.get("path") if source.get("type") == "store" else None,
    }
    found |= {} if state is None else dict(state.more.get("teachers", {}))
    if summary:
        signal = summary.get("signal", {})
        found |= {
            "number": summary.get("teachers"),
            "missing_answers": signal.get("missing_teacher_answers"),
            "shortened_signals": signal.get("shortened_signals"),
            "teacher_s": signal.get("teacher_s"),
            "costs": summary.get("costs", {}),
        }
    return {key: value for key, value in found.items() if value is not None}


def _checkpoints(folder: Path) -> list[int]:
    names = (path.name for path in (folder / "checkpoints").glob("update-*"))
    return sorted(int(name.split("-")[1]) for name in names if name.split("-")[1].isdigit())
