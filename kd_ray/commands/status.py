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
    EvaluateConfig,
    InferTeachersConfig,
    TrainConfig,
    TrainTeachersConfig,
)
from kd_ray.config.load import load
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.report.run_status import STALE_S, NoRun, RunStatus, find_runs, read_status
from kd_ray.report.run_status_tables import show_run, show_runs

_INDEX_NAME = "store.json"


@dataclass(frozen=True)
class StoreFill:
    """How full a target store is: shards, each counted once for every teacher."""

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
    while True:
        stores, runs = _look(run, root, stale_after_s)
        if as_json:
            content: dict[str, Any] = {"runs": [asdict(each) for each in runs]}
            if stores:
                content["stores"] = [
                    {**asdict(each), "committed": each.committed, "shards": each.shards}
                    for each in stores
                ]
            sys.stdout.write(json.dumps(content) + "\n")
            sys.stdout.flush()
        else:
            if watch is not None and console.is_terminal:
                console.clear()
            _show(stores, runs, console)
        if watch is None or not any(each.at_work for each in runs):
            return runs
        time.sleep(watch)


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
                places += (find_runs(place) if place.is_dir() else []) or [place]
    elif (folder / _INDEX_NAME).exists():
        stores.append(folder)
    else:
        places = find_runs(folder)
    if not places and not stores:
        raise NoRun(f"{folder or run}: no run, i.e. no folder with a config.json of `kd-ray`")
    places = list(dict.fromkeys(places))
    runs = [
        read_status(place, _name(place, root), stale_after_s=stale_after_s, whole=len(places) == 1)
        for place in places
    ]
    if len(runs) == 1:
        runs = [_with_store(runs[0], root)]
    fills = [_fill(store) for store in stores if (store / _INDEX_NAME).exists()]
    return fills, runs


def _folder(run: str, root: Path) -> Path | None:
    """The folder that is meant; None: a configuration is."""
    candidates = [Path(run), root / run, root / "runs" / run]
    for path in candidates:
        if path.is_dir():
            return path
    if any(path.is_file() for path in candidates[:2]):
        return None
    looked = ", ".join(str(path) for path in dict.fromkeys(candidates))
    raise NoRun(f"there is no run {run!r}; looked for {looked}. Runs lie in {root / 'runs'}")


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
        case TrainConfig() | DistillConfig() | EvaluateConfig():
            yield RunFolder(root, config.name).path, False
        case _ if getattr(config, "command", None) == "search":
            yield RunFolder(root, str(config.name)).path, False  # type: ignore[attr-defined]


def _name(folder: Path, root: Path) -> str:
    """As in `runs/<name>`; the path of a folder that lies elsewhere."""
    try:
        return str(folder.resolve().relative_to((root / "runs").resolve()))
    except ValueError:
        return str(folder)


def _with_store(run: RunStatus, root: Path) -> RunStatus:
    """With how full the store is that a distillation reads."""
    store = run.teachers.get("store")
    if store is None or not (root / store / _INDEX_NAME).exists():
        return run
    found: dict[str, Any]
    try:
        fill = _fill(root / store)
        found = {"committed": fill.committed, "shards": fill.shards}
    except (ValueError, OSError) as error:
        # How the run went can be told all the same.
        found = {"error": str(error)}
    return replace(run, teachers={**run.teachers, "store_fill": found})


def _fill(folder: Path) -> StoreFill:
    from kd_ray.teachers.store import TargetStore

    store = TargetStore.open(folder)
    digests = [info.digest for info in store.teachers]
    splits = {}
    for split in store.index.splits:
        shards = store.shards(split)
        there = sum(
            # Shards appear whole: whether one is sound is for who reads it.
            store.shard_path(split, digest, shard.index).exists()
            for digest in digests
            for shard in shards
        )
        splits[split] = (there, len(shards) * len(digests))
    return StoreFill(str(folder), len(digests), splits)


def _show(stores: list[StoreFill], runs: list[RunStatus], console: Console) -> None:
    for store in stores:
        console.print(Text(f"store {store.folder}: {store.teachers} teachers"), soft_wrap=True)
        for split, (there, planned) in store.splits.items():
            share = 100 * there / max(1, planned)
            console.print(Text(f"  {split:<12}{there} of {planned} shards, {share:.0f} %"))
    if len(runs) == 1:
        show_run(runs[0], console)
    elif runs:
        show_runs(runs, console)
