"""`kd-ray study`: systems times seeds; each finished pair is a file, the table is their means."""

import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.commands.recipe import load_task, recipe, run_command
from kd_ray.config.base import Section
from kd_ray.config.evaluation import EvaluateConfig
from kd_ray.config.load import ConfigError
from kd_ray.config.places import local_path
from kd_ray.config.recipes import RecipeConfig, RecipeTask, StudyConfig, StudyRow
from kd_ray.evaluation.run_folder import write_atomically, write_json
from kd_ray.report.study import Cell, study_table
from kd_ray.storage import fetch_folder

logger = logging.getLogger(__name__)


class StudyFailed(RuntimeError):
    """Some rows could not be made; those that were finished stay."""


@dataclass(frozen=True)
class Job:
    """One row for one seed: what is run, and where its file goes."""

    row: str
    seed: int
    system: str
    tasks: tuple[Section, ...]
    evaluation: EvaluateConfig
    path: Path

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return f"{self.row}, seed {self.seed}"


def study(config: StudyConfig, root: Path) -> str:
    """Make the rows that are missing and write the table; returns the table.

    Every configuration is read and checked before anything starts. Each finished row is a file
    `ROW-seed-N.json`; the same command goes on where it was stopped.

    Raises:
        StudyFailed: a row failed; the others were made all the same.
    """
    jobs = study_jobs(config, root)
    results = fetch_folder(root / config.results, only=lambda name: "/" not in name)
    waiting = [job for job in jobs if not job.path.exists()]
    logger.info("%d of %d rows are there", len(jobs) - len(waiting), len(jobs))
    failed: dict[str, Exception] = {}
    if waiting:
        if config.first:
            recipe(RecipeConfig(command="recipe", name=config.name, steps=config.first), root)
        failed = _run(waiting, config, root)
    table = study_table(
        [_cell(job.path) for job in jobs if job.path.exists()],
        order=list(config.rows),
        baseline=config.baseline,
    )
    write_atomically(results / "table.md", table)
    logger.info("\n%s", table)
    if failed:
        lines = "\n".join(f"  {name}: {error}" for name, error in failed.items())
        raise StudyFailed(f"{len(failed)} of {len(jobs)} rows failed:\n{lines}")
    return table


def study_jobs(config: StudyConfig, root: Path) -> list[Job]:
    """Every row for every seed, with its configurations read and checked.

    The first seeds come first, so that an unfinished table is complete for some of them.
    """
    jobs = [
        (place, _job(config, name, row, seed, root))
        for name, row in config.rows.items()
        for place, seed in enumerate(row.seeds or config.seeds)
    ]
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def _job(config: StudyConfig, name: str, row: StudyRow, seed: int, root: Path) -> Job:
    values = {"row": name, "seed": seed}
    tasks = tuple(load_task(_filled(task, values), root) for task in row.tasks)
    evaluation = load_task(_filled(row.evaluation, values), root)
    if not isinstance(evaluation, EvaluateConfig):
        raise ConfigError(
            f"rows.{name}.evaluation: {row.evaluation.config} is a configuration for "
            f"`kd-ray {evaluation.command}`, not for `kd-ray evaluate`"  # type: ignore[attr-defined]
        )
    path = local_path(root / config.results) / f"{name}-seed-{seed}.json"
    return Job(name, seed, str(_fill(row.system, values)), tasks, evaluation, path)


def _filled(task: RecipeTask, values: Mapping[str, Any]) -> RecipeTask:
    return task.model_copy(update={"overrides": _fill(task.overrides, values)})


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """`{row}` and `{seed}` filled in, in keys and values; a lone placeholder keeps its type."""
    if isinstance(value, Mapping):
        return {_fill(key, values): _fill(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, values) for item in value]
    if isinstance(value, str):
        for name, filling in values.items():
            if value == f"{{{name}}}":
                return filling
            value = value.replace(f"{{{name}}}", str(filling))
    return value


def _run(jobs: list[Job], config: StudyConfig, root: Path) -> dict[str, Exception]:
    """Make these rows, some side by side; what went wrong, by name."""
    seen: set[str] = set()

    def look() -> None:
        for job in jobs:
            if job.name not in seen and job.path.exists():
                seen.add(job.name)
                logger.info("%s: done (%d of %d)", job.name, len(seen), len(jobs))
                if config.commit:
                    _commit(job, root)

    if config.parallel == 1:
        results = _one_by_one(jobs, root, look)
    else:
        # One row at a time needs no Ray.
        from kd_ray.cluster.parallel import run_side_by_side
        from kd_ray.cluster.runtime import ensure_ray

        with ensure_ray(cpus=max(2, config.parallel)):
            results = run_side_by_side(
                make_row,
                {job.name: (job, root) for job in jobs},
                cpus=1,
                gpus=0,
                max_parallel=config.parallel,
                on_tick=look,
            )
    look()
    return {name: error for name, error in results.items() if isinstance(error, Exception)}


def _one_by_one(
    jobs: list[Job], root: Path, look: Callable[[], None]
) -> dict[str, Exception | None]:
    results: dict[str, Exception | None] = {}
    for job in jobs:
        try:
            make_row(job, root)
            results[job.name] = None
        except (ValueError, OSError, RuntimeError) as error:
            logger.error("%s failed: %s", job.name, error)
            results[job.name] = error
        look()
    return results


def make_row(job: Job, root: Path) -> None:
    """Train, evaluate, write the file; parts that are finished are not done again."""
    started = time.perf_counter()
    for task in job.tasks:
        run_command(task, root)
    trained_s = time.perf_counter() - started
    results = run_command(job.evaluation, root)
    found = [system for system in results["systems"] if system["label"] == job.system]
    if not found:
        labels = ", ".join(system["label"] for system in results["systems"])
        raise StudyFailed(
            f"{job.name}: the evaluation {job.evaluation.name} has no system {job.system!r}; "
            f"it has: {labels}"
        )
    header = {key: value for key, value in results.items() if key != "systems"}
    write_json(
        job.path,
        {
            "row": job.row,
            "seed": job.seed,
            "seconds": round(trained_s, 1),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "evaluation": header,
            "system": found[0],
        },
    )


def _cell(path: Path) -> Cell:
    content = json.loads(path.read_text(encoding="utf-8"))
    header, system = content["evaluation"], content["system"]
    split = list(header["splits"])[-1]
    scores = system["scores"][split]
    if header["family"] == "translation":
        shown = {"BLEU": scores["bleu"], "chrF++": scores["chrf++"]}
    else:
        shown = {"error rate %": scores[header["decoding"]]["error_rate"]}
    return Cell(content["row"], content["seed"], split, shown, system["parameters"])


def _commit(job: Job, root: Path) -> None:
    """Keep a finished row; what else is changed or staged is left alone."""
    path = str(job.path.relative_to(root))
    for arguments in (["add", path], ["commit", "-q", "-m", f"results: {job.name}", "--", path]):
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        if done.returncode:
            logger.warning("git %s failed, the row stays uncommitted: %s", arguments[0],
                           done.stderr.strip())  # fmt: skip
            return
