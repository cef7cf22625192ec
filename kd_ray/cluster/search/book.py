"""What became of each trial: a note in its run folder, beside what the run itself writes there."""

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kd_ray.cluster.search.space import Base, digest_of, trial_config
from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.load import ConfigError, dump
from kd_ray.config.search import SearchConfig
from kd_ray.evaluation.run_folder import (
    RunFolder,
    RunFolderError,
    differences,
    write_atomically,
    write_json,
)
from kd_ray.report.runs import read_run, repeat_command
from kd_ray.report.search import COUNTS, WORK, Setting, TeacherWork, Trial, trial_of, work_of
from kd_ray.storage import StorageError, fetch, matches, waiting_to_hold

_MAY_CHANGE = frozenset(
    {
        "seeds",
        "concurrent",
        "cpus_per_trial",
        "gpus_per_trial",
        "pool",  # Its keys: whether there is one is part of each trial.
        "evaluate",
        "fail_fast",
        "algorithm.samples",
    }
)
"""Keys of a search that may be other ones when it goes on: trials stay what they are."""


@dataclass(frozen=True)
class Proposed:
    """A trial that is to be trained."""

    number: int
    """Of its setting, from 1."""
    setting: Setting
    seed: int

    @property
    def key(self) -> str:
        """Its folder's name."""
        return f"{digest_of(self.setting)}-s{self.seed}"


class TrialBook:
    """Run folders of a search's trials. Any process may open it; it keeps nothing in memory."""

    def __init__(self, root: Path, search: str) -> None:
        self.root = root
        self.search = search
        self.path = RunFolder(root, search).path

    def open(self, config: SearchConfig, base: Base, unit: str | None = None) -> None:
        """Make the search's folder, or take it up again.

        Args:
            config: of the search.
            base: of its trials.
            unit: of the tokens whose errors are counted; None: no errors are counted.

        Raises:
            RunFolderError: it was made with another base, space or scheduler, or with a pool of its
                own and is to go on without one (or the other way round).
        """
        wanted = {"config": json.loads(dump(config)), "base": json.loads(dump(base.config))}
        before = {name: self._read(f"{name}.json") for name in wanted}
        if before["config"] is not None and before["base"] is not None:
            self._refuse_other_place(before["config"], config)
            different = [
                *differences(before["config"], wanted["config"], ignore=_MAY_CHANGE, of="config"),
                *differences(before["base"], wanted["base"], of="base"),
            ]
            if different:
                raise RunFolderError(
                    f"{self.path} was made with another search:\n  "
                    + "\n  ".join(different[:12])
                    + "\nGive this search another name (name=...), or remove the folder to start "
                    f"over. What may change without that: {', '.join(sorted(_MAY_CHANGE))}."
                )
        for name, content in wanted.items():
            write_json(self.path / f"{name}.json", content)
        if unit is not None:
            write_json(self.path / COUNTS, {"unit": unit})

    def _refuse_other_place(self, before: Mapping[str, Any], config: SearchConfig) -> None:
        """Trials that were begun know whether the search has a pool of its own."""
        had_pool = before.get("pool") is not None
        if had_pool == (config.pool is not None):
            return
        was, now = ("a pool", "none") if had_pool else ("no pool", "one")
        way_out = "put the section pool back" if had_pool else "leave out the section pool"
        raise RunFolderError(
            f"{self.path} was begun with {was} of its own, and is to go on with {now}: its trials "
            f"would have their teachers elsewhere; {way_out} (its keys may change), or give this "
            "search another name (name=...)."
        )

    def run_name(self, key: str) -> str:
        """The name of a trial's run."""
        return f"{self.search}/trials/{key}"

    def trials(self) -> list[Trial]:
        """Every trial that was begun, by key."""
        folders = [path.parent for path in matches(self.path, "trials/*/trial.json")]
        return [trial_of(read_run(folder, folder.name, "student")) for folder in folders]

    def trial(self, key: str) -> Trial:
        """One that was begun."""
        return trial_of(read_run(self.path / "trials" / key, key, "student"))

    def begin(self, proposed: Proposed, base: Base) -> str | None:
        """Make the trial's run folder, or take it up again; its configuration as JSON.

        None: the setting does not fit, or the folder was made with another configuration; the trial
        has failed then.
        """
        name = self.run_name(proposed.key)
        run = RunFolder(self.root, name)
        noted = self._read(f"trials/{proposed.key}/trial.json") or {}
        note = {
            "number": proposed.number,
            "setting": dict(proposed.setting),
            "seed": proposed.seed,
            "state": "unfinished",
            "started": noted.get("started", time.time()),
            "repeat": "",
        }
        # The note comes last: whoever finds it finds a run folder around it.
        try:
            config = trial_config(base, proposed.setting, name=name, seed=proposed.seed)
        except ConfigError as error:
            write_json(run.path / "config.json", json.loads(dump(base.config)) | {"name": name})
            self._write(proposed.key, {**note, "state": "failed", "reason": str(error)})
            return None
        try:
            # After a search was killed, its trials' processes may live on for a moment.
            with waiting_to_hold(), run.opened(config, whole=False):
                # The trial's own process writes it from here on, and needs its checkpoints.
                pass
        except (RunFolderError, StorageError) as error:
            self._write(proposed.key, {**note, "state": "failed", "reason": str(error)})
            return None
        self._write(proposed.key, {**note, "repeat": _repeat(config, base)})
        if base.pool is not None:
            # The pool that a search brings up begins to count anew each time.
            before = work_of(run.path) or TeacherWork()
            write_json(run.path / WORK, {"before": asdict(before), "now": asdict(TeacherWork())})
        return dump(config)

    def stopped(self, key: str, epoch: int, reason: str) -> None:
        """A trial is stopped early."""
        self._change(key, state="stopped", reason=f"stopped early at epoch {epoch}: {reason}")

    def failed(self, key: str, reason: str) -> None:
        """A trial could not be trained to its end."""
        self._change(key, state="failed", reason=reason)

    def broke(self, key: str, error: BaseException) -> None:
        """The same, with the traceback in the trial's folder."""
        text = "".join(traceback.format_exception(error))
        write_atomically(self.path / "trials" / key / "logs" / "failure.txt", text)
        self.failed(key, f"{type(error).__name__}: {error}")

    def ended(self, key: str) -> Trial:
        """A trial has come to its end in this run of the search."""
        self._change(key, ended=time.time())
        return self.trial(key)

    def cost(self, key: str, work: TeacherWork) -> None:
        """What the pool did for a trial since the search was started."""
        path = fetch(self.path / "trials" / key / WORK)
        before = json.loads(path.read_text())["before"] if path.exists() else asdict(TeacherWork())
        write_json(path, {"before": before, "now": asdict(work)})

    def _change(self, key: str, **changes: Any) -> None:
        self._write(key, {**(self._read(f"trials/{key}/trial.json") or {}), **changes})

    def _write(self, key: str, note: Mapping[str, Any]) -> None:
        write_json(self.path / "trials" / key / "trial.json", note)

    def _read(self, file: str) -> dict[str, Any] | None:
        path = fetch(self.path / file)
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def _repeat(config: TrainConfig | DistillConfig, base: Base) -> str:
    """The trial alone, with one command: also when the search's pool is gone."""
    command = repeat_command(config.command, config.name)
    if base.pool is None:
        return command
    assert isinstance(base.config, DistillConfig)
    source = base.config.teachers.source
    said = {"type": source.type, **source.model_dump(mode="json", exclude_defaults=True)}
    return f"{command} teachers.source='{json.dumps(said, separators=(',', ':'))}'"
