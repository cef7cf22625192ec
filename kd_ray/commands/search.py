"""`kd-ray search`: trials over a space of settings, one report, the best setting as a file."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kd_ray.cluster.pool import service
from kd_ray.cluster.runtime import ensure_ray
from kd_ray.cluster.search.book import TrialBook
from kd_ray.cluster.search.proposals import proposals_of
from kd_ray.cluster.search.resources import needs_of, private_cpus
from kd_ray.cluster.search.space import Base, check_space, read_base, trial_config
from kd_ray.cluster.search.tuning import require_room, run_trials
from kd_ray.commands.evaluate import evaluate
from kd_ray.commands.pool import spec_of
from kd_ray.config.commands import DistillConfig
from kd_ray.config.evaluation import EvaluateConfig, SystemList
from kd_ray.config.pool import PoolConfig, PoolTeachers
from kd_ray.config.search import SearchConfig
from kd_ray.evaluation.environment import environment
from kd_ray.evaluation.run_folder import RunFolder, write_atomically, write_json
from kd_ray.evaluation.token_file import token_file
from kd_ray.report.search import SearchResults, SettingResult, read_search, setting_text
from kd_ray.report.search_page import search_page
from kd_ray.report.search_tables import search_json, show_search
from kd_ray.report.search_verdict import Verdict, verdict_of
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.storage import alone, fetched_folder, remove

logger = logging.getLogger(__name__)


class SearchFailed(RuntimeError):
    """No trial of a search could be trained to its end."""


def search(config: SearchConfig, root: Path) -> dict[str, Any]:
    """Train the trials that are missing, evaluate, report; returns what `search.json` holds.

    Finished trials are not trained again, interrupted and failed ones go on.

    Raises:
        ConfigError: a value of the space does not fit the base, or nothing of it can be used.
        SearchFailed: no trial was finished; the report says why.
        StorageError: another process is at the same search.
        ValueError: not even one trial fits into this machine.
    """
    base = read_base(config, root)
    check_space(config, base)
    if config.evaluate is not None:
        # Trained for hours, it would not find them either.
        for manifest in config.evaluate.splits.values():
            read_manifest(root / manifest)
    book = TrialBook(root, config.name)
    with alone(book.path):
        return _search(config, base, book, root)


def _search(config: SearchConfig, base: Base, book: TrialBook, root: Path) -> dict[str, Any]:
    book.open(config, base, _unit(base, root))
    write_json(book.path / "environment.json", environment())
    # Its presence says that nothing is left to be done.
    remove(book.path / "summary.json")
    proposals = proposals_of(config, book.trials())
    if proposals.left:
        logger.info("%s: %d trials to go", config.name, proposals.left)
        needs = needs_of(config, base)
        cpus = private_cpus(config, needs, os.cpu_count() or 1)
        with ensure_ray(cpus=cpus, dashboard=base.config.workers.grouped) as joined:
            require_room(needs, grows=not joined.private)
            with _pool(config, base, root):
                run_trials(config, base, book, proposals)
    else:
        logger.info("%s: every trial has been trained", config.name)
    results = read_search(root, config.name)
    try:
        # Its files stay here until they are read.
        with fetched_folder(RunFolder(root, f"{config.name}/evaluation").path):
            verdict = verdict_of(results, _evaluate(config, base, results, root))
    except Exception as error:
        without = verdict_of(results, None)
        note = f"Trials were not evaluated: {error}"
        _write(config, base, results, replace(without, notes=(*without.notes, note)), root)
        raise
    content = _write(config, base, results, verdict, root)
    _tell_failures(results)
    if not proposals.left:
        summary = {"name": config.name, "command": "search", "status": "finished"}
        write_json(book.path / "summary.json", summary)
    return content


def _unit(base: Base, root: Path) -> str | None:
    """What an error rate counts; None of translations, which have none."""
    if base.config.data.column == "translation":
        return None
    return Tokens.load(token_file(base.config, root)).unit


def pool_config(config: SearchConfig, base: Base) -> PoolConfig:
    """The pool that a search brings up for its trials."""
    assert base.pool is not None
    assert config.pool is not None
    assert isinstance(base.config, DistillConfig)
    teachers = base.config.teachers
    assert teachers.list is not None
    return PoolConfig(
        command="pool",
        name=base.pool,
        teachers=PoolTeachers(list=teachers.list, recognizer=teachers.recognizer),
        hosts=config.pool,
    )


def _pool(config: SearchConfig, base: Base, root: Path) -> AbstractContextManager[object]:
    """The pool that all trials ask, if the search brings one up."""
    if base.pool is None:
        return nullcontext()
    return service.brought_up(spec_of(pool_config(config, base), root))


def _tell_failures(results: SearchResults) -> None:
    failed = [trial for trial in results.counted if trial.state == "failed"]
    finished = [trial for trial in results.counted if trial.state == "finished"]
    if not finished:
        lines = "\n".join(f"  {t.name}: {t.reason}" for t in failed[:12])
        raise SearchFailed(
            f"search {results.name}: no trial was finished, {len(failed)} failed:\n{lines}"
        )
    if failed:
        logger.warning(
            "%d of %d trials failed; the same command tries them again",
            len(failed), len(results.counted),
        )  # fmt: skip


def _evaluate(config: SearchConfig, base: Base, results: SearchResults, root: Path) -> Path | None:
    """Decode finished trials; None without a section `evaluate`, or without any such trial."""
    section = config.evaluate
    if section is None:
        return None
    students = {
        trial.label: f"runs/{trial.name}" for trial in results.counted if trial.state == "finished"
    }
    if not students:
        return None
    data, select_by = base.config.data, base.config.training.select_by
    translates = data.column == "translation"
    run = RunFolder(root, f"{config.name}/evaluation")
    # Trials that finished since then join the same evaluation; what was scored is kept by digest.
    remove(run.path / "config.json")
    decoding = section.decoding or ("ctc" if select_by == "ctc" else "attention")
    tokens = None
    if not translates:
        path = token_file(base.config, root)
        tokens = str(path.relative_to(root) if path.is_relative_to(root) else path)
    evaluate(
        EvaluateConfig(
            command="evaluate",
            name=run.name,
            systems=SystemList(students=students),
            splits=section.splits,
            tokens=tokens,
            column=data.column,
            reads_column=data.source_column,
            decoding=decoding,
            batch_size=section.batch_size,
            speed_utterances=0,
        ),
        root,
    )
    return run.path


def _write(
    config: SearchConfig,
    base: Base,
    results: SearchResults,
    verdict: Verdict,
    root: Path,
) -> dict[str, Any]:
    folder = RunFolder(root, config.name).path
    content = search_json(results, verdict)
    write_json(folder / "search.json", content)
    show_search(results, verdict)
    write_atomically(folder / "report.html", search_page(results, verdict))
    if results.ranked:
        path = _write_best(base, results.ranked[0], verdict, config, folder)
        logger.info("best setting: %s (kd-ray %s %s)", path, base.config.command, path)
    logger.info("report: %s", folder / "report.html")
    return content


def _write_best(
    base: Base, best: SettingResult, verdict: Verdict, config: SearchConfig, folder: Path
) -> Path:
    """The best setting as a configuration of its own, with the base's own source of teachers."""
    content = trial_config(
        base,
        best.setting,
        name=f"{config.name}/best",
        seed=config.seeds[0],
        asks_pool=False,
    ).model_dump(mode="json")
    head = "\n".join(
        f"# {line}"
        for line in (
            f"Best of the search {config.name}: {setting_text(best.setting)}",
            verdict.text,
        )
    )
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    path = folder / "best.yaml"
    write_atomically(path, f"{head}\n{body}")
    return path
