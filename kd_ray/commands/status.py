"""`kd-ray status RUN`: how runs are doing, from their folders; needs no Ray."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kd_ray.config.base import Section
from kd_ray.config.commands import (
    DistillConfig,
    InferTeachersConfig,
    TrainConfig,
    TrainTeachersConfig,
)
from kd_ray.config.evaluation import EvaluateConfig
from kd_ray.config.load import load
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import SearchConfig
from kd_ray.evaluation.run_folder import EVENTS, RunFolder, bring_events
from kd_ray.report.run_status import INNER, STALE_S, NoRun, RunStatus, find_runs, read_status
from kd_ray.report.run_status_tables import show_run, show_runs
from kd_ray.storage import exists, fetch_folder, names_below, shown

_INDEX_NAME = "store.json"
_READ = (".json", ".jsonl")
"""Ends of the names of files that say how a run is."""


@dataclass(frozen=True)
class StoreFill:
    """How full a target store is: shards, each counted once for every teacher.

    One that a configuration names and that has not begun has no teachers and no splits.
    """

    folder: str
    teachers: int
    splits: dict[str, tuple[int, int]]
    """Committed and planned ones, by split."""

    @property
    def committed(self) -> int:
        """Over all splits."""
        return sum(there for there, _ in self.splits.values())

    @property
    def shards(self) -> int:
        """Over all splits."""
        return sum(planned for _, planned in self.splits.values())

    @property
    def full(self) -> bool:
        """Whether nothing that is planned is missing."""
        return 0 < self.shards <= self.committed


def status(
    run: str,
    root: Path,
    *,
    as_json: bool = False,
    watch: float | None = None,
    stale_after_s: float = STALE_S,
) -> list[RunStatus]:
    """Show a run, the runs of a folder, or how full a target store is; returns the runs.

    Args:
        run: a run folder or its name (`demo/teachers` for `runs/demo/teachers`), a folder of runs,
            the configuration of a run, of `train-teachers` or of a recipe, or a target store.
        root: where relative paths begin.
        as_json: one line of JSON: `{"runs": [...]}`, and `stores` where the folder is one.
        watch: look again every so many seconds, until nothing more is to be expected.
        stale_after_s: without a sign of life for so long, a run is `stale`.

    Raises:
        NoRun: there is nothing of this name.
        ConfigError: a configuration that cannot be read.
    """
    # Where nobody sees the end of a line, names are better whole.
    console = Console(width=None if sys.stdout.isatty() else 160)
    filled = _Filled()
    while True:
        stores, runs = _look(run, root, stale_after_s)
        if as_json:
            content: dict[str, Any] = {"runs": [asdict(each) for each in runs]}
            if stores:
                content["stores"] = [_as_plain(each) for each in stores]
            sys.stdout.write(json.dumps(content) + "\n")
            sys.stdout.flush()
        else:
            if watch is not None and console.is_terminal:
                console.clear()
            _show(stores, runs, console)
        more = any(each.at_work for each in runs) or filled.waits(stores, stale_after_s)
        if watch is None or not more:
            return runs
        time.sleep(watch)


class _Filled:
    """Whether stores that are not full still become fuller."""

    def __init__(self) -> None:
        self._committed: dict[str, int] = {}
        self._grew_s = time.monotonic()

    def waits(self, stores: list[StoreFill], stale_after_s: float) -> bool:
        """Whether more is to be expected of them."""
        committed = {each.folder: each.committed for each in stores}
        if committed != self._committed:
            self._committed, self._grew_s = committed, time.monotonic()
        silent_s = time.monotonic() - self._grew_s
        return not all(each.full for each in stores) and silent_s < stale_after_s


def _look(run: str, root: Path, stale_after_s: float) -> tuple[list[StoreFill], list[RunStatus]]:
    folder = _folder(run, root)
    stores: list[Path] = []
    places: list[Path] = []
    if folder is None:
        path = Path(run) if Path(run).is_file() else root / run
        for place, is_store in _made_by(load(path), root):
            if is_store:
                stores.append(place)
            else:
                here = _brought(place)
                places += (find_runs(here) if here.is_dir() else []) or [here]
    elif (folder / _INDEX_NAME).exists():
        stores.append(folder)
    else:
        places = find_runs(folder)
    if not places and not stores:
        raise NoRun(f"{folder or run}: no run, i.e. no folder with a config.json of `kd-ray`")
    places = list(dict.fromkeys(places))
    for place in places:
        bring_events(place)
    runs = [
        read_status(place, _name(place, root), stale_after_s=stale_after_s, whole=len(places) == 1)
        for place in places
    ]
    if len(runs) == 1:
        runs = [_with_store(runs[0], root)]
    return [_fill(store) for store in dict.fromkeys(stores)], runs


def _folder(run: str, root: Path) -> Path | None:
    """The folder that is meant; None: a configuration is."""
    candidates = [Path(run), root / run, root / "runs" / run]
    for path in candidates:
        here = _brought(path)
        if here.is_dir():
            return here
    if any(path.is_file() for path in candidates[:2]):
        return None
    looked = ", ".join(str(path) for path in dict.fromkeys(candidates))
    raise NoRun(f"there is no run {run!r}; looked for {looked}. Runs lie in {root / 'runs'}")


def _brought(folder: Path) -> Path:
    """A folder's local path; of one at an address, what a status reads is brought here first."""
    return fetch_folder(folder, only=_says_how, pin=False)


def _says_how(name: str) -> bool:
    """Whether a file says how a run is; those of its models and logs do not."""
    *above, last = name.split("/")
    if last == "state.json" and above[-2:-1] == ["checkpoints"]:
        return True
    return last.endswith(_READ) and last != EVENTS and not set(above) & set(INNER)


def _made_by(config: Section, root: Path) -> Iterator[tuple[Path, bool]]:
    """Run folders that a configuration makes, whether they have begun or not, and target stores.

    The second value says that it is a store.
    """
    # Not needed for folders, and they may load much.
    from kd_ray.commands.recipe import load_task
    from kd_ray.commands.study import study_jobs

    match config:
        case RecipeConfig():
            for step in config.steps:
                for task in step.tasks:
                    yield from _made_by(load_task(task, root), root)
        case StudyConfig():
            for job in study_jobs(config, root):
                for each in (*job.tasks, job.evaluation):
                    yield from _made_by(each, root)
        case TrainTeachersConfig():
            for teacher in config.teachers:
                yield RunFolder(root, f"{config.name}/{teacher.name}").path, False
        case InferTeachersConfig():
            yield root / config.store, True
        case TrainConfig() | DistillConfig() | EvaluateConfig() | SearchConfig():
            yield RunFolder(root, config.name).path, False


def _name(folder: Path, root: Path) -> str:
    """As in `runs/<name>`; the path of a folder that lies elsewhere."""
    try:
        return str(folder.resolve().relative_to((root / "runs").resolve()))
    except ValueError:
        return str(folder)


def _with_store(run: RunStatus, root: Path) -> RunStatus:
    """With how full the store is that a distillation reads."""
    store = run.teachers.get("store")
    if store is None:
        return run
    found: dict[str, Any]
    try:
        if not exists(root / store / _INDEX_NAME):
            return run
        fill = _fill(root / store)
        found = {"committed": fill.committed, "shards": fill.shards}
    except (ValueError, OSError) as error:
        # How the run went can be told all the same.
        found = {"error": str(error)}
    return replace(run, teachers={**run.teachers, "store_fill": found})


def _fill(folder: Path) -> StoreFill:
    if not exists(folder / _INDEX_NAME):
        return StoreFill(shown(folder), 0, {})
    from kd_ray.teachers.store import TargetStore

    store = TargetStore.open(folder)
    digests = [info.digest for info in store.teachers]
    splits = {}
    # Shards appear whole: whether one is sound is for who reads it.
    there = names_below(store.folder)
    for split in store.index.splits:
        planned = [
            store.shard_path(split, digest, shard.index).relative_to(store.folder).as_posix()
            for digest in digests
            for shard in store.shards(split)
        ]
        splits[split] = (sum(name in there for name in planned), len(planned))
    return StoreFill(shown(folder), len(digests), splits)


def _as_plain(store: StoreFill) -> dict[str, Any]:
    return {**asdict(store), "committed": store.committed, "shards": store.shards}


def _show(stores: list[StoreFill], runs: list[RunStatus], console: Console) -> None:
    for store in stores:
        how = f"{store.teachers} teachers" if store.teachers else "not begun"
        console.print(Text(f"store {store.folder}: {how}"), soft_wrap=True)
        for split, (there, planned) in store.splits.items():
            share = 100 * there / max(1, planned)
            console.print(Text(f"  {split:<12}{there} of {planned} shards, {share:.0f} %"))
    if len(runs) == 1:
        show_run(runs[0], console)
    elif runs:
        show_runs(runs, console)
