"""The Tune experiment of a search: a trial is a call of `run_training` in a process of its own."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search import Searcher

from kd_ray.cluster.places import ray_storage
from kd_ray.cluster.pool import service
from kd_ray.cluster.pool.views import PoolError
from kd_ray.cluster.search.book import Proposed, TrialBook
from kd_ray.cluster.search.early_stopping import scheduler_of
from kd_ray.cluster.search.proposals import Proposals
from kd_ray.cluster.search.resources import Needs, needs_of, shortage, slots
from kd_ray.cluster.search.secrets import withhold_keys
from kd_ray.cluster.search.space import Base, longest_epochs
from kd_ray.cluster.trainer import run_training
from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.load import check
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import PoolSource
from kd_ray.report.search import TeacherWork, Trial, setting_text
from kd_ray.storage import remove, waiting_to_hold

logger = logging.getLogger(__name__)

_PROCESS_RETRIES = 2
"""A trial whose process died goes on from its last checkpoint so often."""


def run_trials(
    config: SearchConfig,
    base: Base,
    book: TrialBook,
    proposals: Proposals,
) -> None:
    """Train every trial that `proposals` gives out; needs a running Ray, and the pool they ask.

    Returns also if trials failed: their folders say why.
    """
    if not proposals.left:
        return
    folder = book.path / "logs" / "tune"
    # What Tune wrote about earlier runs says less than the run folders.
    with suppress(OSError):
        remove(folder)
    # Its own tables, log files and handling of Ctrl-C; scores are in the run folders.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # A trial that fails at once reports nothing, which is no reason to end all others.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    # It misses those log files.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    withhold_keys()
    needs = needs_of(config, base)
    feed = _Feed(config, base, book, proposals)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(book.root, book.search), dict(needs.reserved)),
        tune_config=tune.TuneConfig(
            search_alg=feed,
            scheduler=scheduler_of(config, book, longest_epochs(config, base)),
            num_samples=proposals.left,
            max_concurrent_trials=slots(config, needs, _resources()),
            trial_name_creator=_key,
            trial_dirname_creator=_key,
        ),
        run_config=tune.RunConfig(
            name=f"run-{time.time_ns()}",
            **ray_storage(folder),
            failure_config=tune.FailureConfig(max_failures=_PROCESS_RETRIES),
            verbose=0,
        ),
    )
    tuner.fit()


def _resources() -> dict[str, float]:
    """All that the nodes of the cluster have, whoever uses it at the moment."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def require_room(needs: Needs, *, grows: bool) -> None:
    """Look whether the pool and a trial fit, before they wait for each other.

    Args:
        needs: of the search.
        grows: the cluster may get more nodes, so what does not fit yet is only told.

    Raises:
        ValueError: they never will; names the resource.
    """
    short = shortage(needs, _resources())
    if short is None:
        return
    if not grows:
        raise ValueError(
            f"the search does not fit into this machine: {short}; lower workers and pool (or "
            "cpus_per_trial, gpus_per_trial), or submit it to a cluster"
        )
    logger.warning("%s: trials wait until the cluster has more", short)


def _key(trial: Any) -> str:
    return cast(str, trial.config["key"])


def _trainable(root: Path, search: str) -> Callable[[dict[str, Any]], None]:
    def train_trial(settings: dict[str, Any]) -> None:
        _train_trial(settings, root, search)

    return train_trial


def _train_trial(settings: Mapping[str, Any], root: Path, search: str) -> None:
    """What the process of a trial does. When Tune stops the trial, a report does not return."""
    config = check(json.loads(settings["config"]), "trial")
    assert isinstance(config, TrainConfig | DistillConfig)
    group = config.workers.grouped
    try:
        # Where Tune starts a trial again, its process may have died on another node a moment ago.
        with waiting_to_hold():
            run_training(
                config,
                root,
                on_epoch=_report,
                group_callbacks=[TuneReportCallback()] if group else [],  # type: ignore[no-untyped-call]
            )
    except Exception as error:
        # Whatever it is: a trial that fails does not end the search, and its folder says why.
        TrialBook(root, search).broke(settings["key"], error)


def _report(figures: Mapping[str, Any]) -> None:
    told = ("epoch", "error_rate", "out_of_patience", "last")
    tune.report({key: figures[key] for key in told})


class _Feed(Searcher):
    """Gives proposals to Tune, and what became of them back."""

    def __init__(
        self, config: SearchConfig, base: Base, book: TrialBook, proposals: Proposals
    ) -> None:
        super().__init__(metric="error_rate", mode="min")
        self._config, self._base = config, base
        self._book, self._proposals = book, proposals
        self._open: dict[str, Proposed] = {}
        self._total = proposals.left
        self._begun = 0
        self._failed = False
        self._pool = _pool_of(base)

    def suggest(self, trial_id: str) -> Any:
        """The next trial, its run folder made."""
        while not (self._failed and self._config.fail_fast):
            proposed = self._proposals.next()
            if proposed is None:
                break
            self._begun += 1
            content = self._book.begin(proposed, self._base)
            if content is None:
                self._conclude(proposed)
                continue
            self._open[trial_id] = proposed
            logger.info("#%s: trial %d of %d", _name(proposed), self._begun, self._total)
            epochs = json.loads(content)["training"]["epochs"]
            return {"key": proposed.key, "config": content, "epochs": epochs}
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A validation."""
        if "error_rate" in result:
            proposed = self._open[trial_id]
            logger.info(
                "#%s: epoch %d, valid error %.2f %%",
                _name(proposed), result["epoch"], result["error_rate"],
            )  # fmt: skip

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial is finished, stopped, or has failed."""
        proposed = self._open.pop(trial_id)
        if self._book.trial(proposed.key).state == "unfinished":
            again = f"{_PROCESS_RETRIES + 1} times" if error else "before it was finished"
            self._book.failed(
                proposed.key,
                f"the trial's process ended {again}, as by lack of memory; see its logs "
                f"({self._book.path / 'trials' / proposed.key}) and those of Ray",
            )
        self._conclude(proposed)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders hold all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing either."""

    def _conclude(self, proposed: Proposed) -> None:
        if self._pool is not None:
            keys = [proposed.key, *(each.key for each in self._open.values())]
            _book_costs(self._book, self._pool, keys)
        trial = self._book.ended(proposed.key)
        self._failed |= trial.state == "failed"
        _tell(trial)
        self._proposals.ended(trial)


def _name(proposed: Proposed) -> str:
    return f"{proposed.number} {setting_text(proposed.setting)}, seed {proposed.seed}"


def _tell(trial: Trial) -> None:
    name = f"#{trial.number} {setting_text(trial.setting)}, seed {trial.seed}"
    if trial.state == "failed":
        logger.error("%s: failed: %s", name, trial.reason)
    elif trial.error is not None:
        logger.info("%s: finished, best valid error %.2f %%", name, trial.error)


def _pool_of(base: Base) -> str | None:
    """The named pool that trials ask."""
    if base.pool is not None or not isinstance(base.config, DistillConfig):
        return base.pool
    source = base.config.teachers.source
    return source.name if isinstance(source, PoolSource) else None


def _book_costs(book: TrialBook, pool: str, keys: Sequence[str]) -> None:
    """Note what the pool did for these trials so far; its accounts go by the names of runs."""
    try:
        hosts = service.status(pool).hosts
    except PoolError as error:
        logger.warning("the pool %s does not tell what trials cost: %s", pool, error)
        return
    if any(host.status is None for host in hosts):
        # Sums without it would be too small; what was noted before is nearer.
        return
    for key in keys:
        name = book.run_name(key)
        accounts = [
            host.status.costs[name]
            for host in hosts
            if host.status is not None and name in host.status.costs
        ]
        if accounts:
            work = TeacherWork(
                sum(each.rows for each in accounts),
                sum(each.known_rows for each in accounts),
                sum(each.teacher_s for each in accounts),
            )
            book.cost(key, work)
