"""What a search found: trials and settings as their run folders tell, and who won.

Scores are kept as errors, where less is better: error rates, or 100 minus BLEU or chrF++.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.report.runs import Run, read_run
from kd_ray.report.systems import read_json
from kd_ray.storage import fetch, fetched_folder, matches

WORK = "teacher_work.json"
"""In a trial's folder; a file of its own, as the trial's process writes the note beside it."""
COUNTS = "counts.json"
"""In a search's folder: the unit of the tokens that validation counts."""
Setting = Mapping[str, Any]
"""Dotted key of the base to value, in the order of the space."""

TrialState = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class TeacherWork:
    """What a trial cost a pool. Rows are utterances times teachers."""

    rows: int = 0
    known_rows: int = 0
    """Of those, answered from the cache."""
    teacher_s: float = 0.0

    def __add__(self, other: "TeacherWork") -> "TeacherWork":
        return TeacherWork(
            self.rows + other.rows,
            self.known_rows + other.known_rows,
            self.teacher_s + other.teacher_s,
        )

    @property
    def computed_share(self) -> float:
        """Share of rows that teachers had to compute."""
        return (self.rows - self.known_rows) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Trial:
    """One training: a setting and a seed, and what became of it."""

    key: str
    number: int
    """Of the setting, from 1."""
    setting: Setting
    seed: int
    state: TrialState
    reason: str
    """Why it was stopped or failed; '' otherwise."""
    name: str
    """Of the run."""
    folder: Path
    curve: tuple[tuple[int, float], ...]
    """(epoch, validation error), in order."""
    epochs: int
    """As configured."""
    error: float | None
    """Of a finished trial's model, in percent; None for others."""
    seconds: float
    parameters: int | None
    started: float
    """Unix time, of the first start; likewise `ended`."""
    ended: float | None
    """None while it is not at its end."""
    teacher_work: TeacherWork | None
    repeat: str
    """A command that trains the same again."""

    @property
    def label(self) -> str:
        """What an evaluation calls it."""
        return f"setting-{self.number}-s{self.seed}"

    @property
    def best_so_far(self) -> float | None:
        """Lowest validation error, whatever became of the trial."""
        return min((error for _, error in self.curve), default=None)


@dataclass(frozen=True)
class SettingResult:
    """A setting over its seeds."""

    number: int
    setting: Setting
    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    """That the search asks for."""

    @property
    def counted(self) -> tuple[Trial, ...]:
        """Those of the seeds that the search asks for; earlier on it may have asked for others."""
        return tuple(trial for trial in self.trials if trial.seed in self.seeds)

    @property
    def complete(self) -> bool:
        """Whether every seed was trained to its end: only such settings are ranked."""
        return set(self.seeds) <= set(self.errors)

    @property
    def errors(self) -> Mapping[int, float]:
        """Seed to error, of finished trials that count."""
        return {trial.seed: trial.error for trial in self.counted if trial.error is not None}

    @property
    def mean(self) -> float | None:
        """Mean error over the seeds; None unless complete."""
        return fmean(self.errors.values()) if self.complete else None

    @property
    def deviation(self) -> float | None:
        """Sample deviation over the seeds; None unless complete, or with one seed."""
        return stdev(self.errors.values()) if self.complete and len(self.errors) > 1 else None

    @property
    def reached(self) -> float | None:
        """The mean of a complete setting; of others the lowest validation error of any trial."""
        if self.complete:
            return self.mean
        known = [each for trial in self.counted if (each := trial.best_so_far) is not None]
        return min(known, default=None)

    @property
    def parameters(self) -> int | None:
        """Of the student; None if no trial finished."""
        return next((each.parameters for each in self.trials if each.parameters is not None), None)

    @property
    def status(self) -> str:
        """What became of the trials that count, in words."""
        if not self.counted:
            return "not begun"
        counts = {
            state: [trial for trial in self.counted if trial.state == state]
            for state in ("finished", "stopped", "failed", "unfinished")
        }
        parts = []
        for state, trials in counts.items():
            if trials:
                number = f"{len(trials)} " if len(self.counted) > 1 else ""
                epochs = sorted({epoch for t in trials if (epoch := _last_epoch(t)) is not None})
                after = f" after epoch {', '.join(map(str, epochs))}" if epochs else ""
                parts.append(number + state + (after if state == "stopped" else ""))
        return ", ".join(parts)


@dataclass(frozen=True)
class Measure:
    """What the validation score is, for readers."""

    title: str
    from_hundred: bool
    """The shown score is 100 minus the error: BLEU or chrF++."""

    def shown(self, error: float) -> float:
        """The score as it is shown."""
        return 100.0 - error if self.from_hundred else error


@dataclass(frozen=True)
class SearchResults:
    """All that a search's folder tells."""

    name: str
    config: Mapping[str, Any]
    measure: Measure
    settings: tuple[SettingResult, ...]
    """Complete ones first, best first; then the others by what they reached."""
    runs: Mapping[str, Run]
    """Key of a trial to its run folder, read."""

    @property
    def axes(self) -> Mapping[str, Mapping[str, Any]]:
        """Dotted key to the section of the axis."""
        space: Mapping[str, Mapping[str, Any]] = self.config["space"]
        return space

    @property
    def trials(self) -> list[Trial]:
        """Of all settings, whether their seeds count or not."""
        return [trial for setting in self.settings for trial in setting.trials]

    @property
    def counted(self) -> list[Trial]:
        """Those of the seeds that the search asks for."""
        return [trial for setting in self.settings for trial in setting.counted]

    @property
    def ranked(self) -> list[SettingResult]:
        """Complete settings, best first; equal ones by number."""
        return [setting for setting in self.settings if setting.complete]


def measure_of(config: Mapping[str, Any], unit: str | None) -> Measure:
    """What training selects by.

    Args:
        config: a resolved configuration.
        unit: of its tokens, which validation counts; None: not known.
    """
    select_by, column = config["training"]["select_by"], config["data"]["column"]
    if column == "translation":
        return Measure({"bleu": "BLEU", "chrf++": "chrF++"}[select_by], True)
    counted = _UNITS.get(unit or "", "token")
    head = {"attention": "attention", "ctc": "CTC"}[select_by]
    return Measure(f"{counted} error rate, %, {head}", False)


_UNITS = {"phones": "phone", "words": "word", "characters": "character"}
"""Pieces of words are counted as tokens."""


def read_search(root: Path, name: str) -> SearchResults:
    """Read a search's folder and those of its trials.

    Raises:
        ReportError: a file lacks, or cannot be read.
    """
    with fetched_folder(RunFolder(root, name).path, only=lambda file: "/" not in file) as folder:
        config, base = read_json(folder / "config.json"), read_json(folder / "base.json")
    runs: dict[str, Run] = {}
    trials = []
    for path in matches(folder, "trials/*/trial.json"):
        run = read_run(path.parent, path.parent.name, "student")
        runs[path.parent.name] = run
        trials.append(trial_of(run))
    by_number: dict[int, list[Trial]] = {}
    for trial in trials:
        by_number.setdefault(trial.number, []).append(trial)
    seeds = tuple(config["seeds"])
    settings = [
        SettingResult(number, group[0].setting, tuple(sorted(group, key=_seed_of)), seeds)
        for number, group in by_number.items()
    ]
    counts = folder / COUNTS
    unit = read_json(counts)["unit"] if counts.exists() else None
    measure = measure_of(base, unit)
    return SearchResults(name, config, measure, tuple(sorted(settings, key=_rank)), runs)


def trial_of(run: Run) -> Trial:
    """A trial as its folder tells: what is finished is so, whatever was noted of it."""
    note = read_json(run.folder / "trial.json")
    state: TrialState = "finished" if run.summary else note["state"]
    exported = run.summary.get("average", {}).get("error_rate")
    error = exported if exported is not None else run.summary.get("best_error_rate")
    return Trial(
        key=run.folder.name,
        number=note["number"],
        setting=note["setting"],
        seed=note["seed"],
        state=state,
        reason=note.get("reason", "") if state in ("stopped", "failed") else "",
        name=run.name,
        folder=run.folder,
        curve=tuple((int(line["epoch"]), float(line["error_rate"])) for line in run.valid),
        epochs=int(run.config["training"]["epochs"]),
        error=None if error is None else float(error),
        seconds=float(run.summary.get("seconds") or _seconds(run)),
        parameters=run.summary.get("parameters"),
        started=float(note["started"]),
        ended=note.get("ended"),
        teacher_work=work_of(run.folder),
        repeat=note["repeat"],
    )


def work_of(folder: Path) -> TeacherWork | None:
    """What a trial cost pools, those of earlier starts of the search too; None: not known."""
    path = fetch(folder / WORK)
    if not path.exists():
        return None
    noted = read_json(path)
    return TeacherWork(**noted["before"]) + TeacherWork(**noted["now"])


def _seed_of(trial: Trial) -> int:
    return trial.seed


def _seconds(run: Run) -> float:
    keys = ("data_s", "rollout_s", "teacher_wait_s", "student_s")
    return sum(float(line.get(key) or 0.0) for line in run.train for key in keys)


def _rank(setting: SettingResult) -> tuple[bool, float, int]:
    reached = float("inf") if setting.reached is None else setting.reached
    return (not setting.complete, reached, setting.number)


def _last_epoch(trial: Trial) -> int | None:
    return trial.curve[-1][0] if trial.curve else None


def short_axes(keys: Sequence[str]) -> dict[str, str]:
    """Dotted keys without what all can do without: `distillation.alpha` is `alpha`."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        names[key] = next(
            end
            for end in ends
            if end == key or not any(other != key and _ends_with(other, end) for other in keys)
        )
    return names


def _ends_with(key: str, end: str) -> bool:
    return key == end or key.endswith(f".{end}")


def value_text(value: Any) -> str:
    """A value of an axis in few words: `{type: best, ties: first}` is `best (ties first)`."""
    if isinstance(value, Mapping):
        rest = [f"{key} {value_text(inner)}" for key, inner in value.items() if key != "type"]
        if "type" not in value:
            return ", ".join(rest) or "{}"
        return f"{value['type']} ({', '.join(rest)})" if rest else str(value["type"])
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def setting_text(setting: Setting) -> str:
    """A setting on one line."""
    names = short_axes(list(setting))
    return ", ".join(f"{names[key]} {value_text(value)}" for key, value in setting.items())
