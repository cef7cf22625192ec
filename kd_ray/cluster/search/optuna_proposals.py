"""Settings that Optuna's TPE proposes from the scores so far."""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from kd_ray.cluster.search.book import Proposed
from kd_ray.cluster.search.proposals import Numbers, is_open
from kd_ray.cluster.search.space import digest_of, untried
from kd_ray.config.search import (
    Axis,
    Choice,
    GridAxis,
    LogRandomInteger,
    LogUniform,
    OptunaSearch,
    QuantizedUniform,
    RandomInteger,
    SearchConfig,
    Uniform,
)
from kd_ray.report.search import Setting, Trial

logger = logging.getLogger(__name__)

_REPEATED_PROPOSALS = 50


class OptunaProposals:
    """Optuna's TPE over settings; the seeds of a setting follow each other, their mean counts.

    TPE proposes what it knows to be good again and again where there are few settings; after
    `_REPEATED_PROPOSALS` of these an untried setting is drawn by chance.

    The study lives in memory, and is filled from the known trials: a search that goes on knows
    what was tried. Of a setting that was stopped early Optuna hears how far it came.
    """

    def __init__(self, config: SearchConfig, known: Sequence[Trial]) -> None:
        algorithm = config.algorithm
        assert isinstance(algorithm, OptunaSearch)
        self._axes = config.space
        self._seeds = config.seeds
        self._distributions = {key: _distribution(axis) for key, axis in config.space.items()}
        self._numbers = Numbers(known)
        self._tried: dict[str, dict[int, Trial]] = {}
        self._asked: dict[str, optuna.trial.Trial] = {}
        self._queue: list[Proposed] = []
        self._random = random.Random(f"{algorithm.seed}/{len(known)}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for trial in known:
            self._tried.setdefault(digest_of(trial.setting), {})[trial.seed] = trial
        done = [group for group in self._tried.values() if not self._missing(group)]
        sampler = TPESampler(
            # Another one after each resumption, or the same draws would come again.
            seed=algorithm.seed + 7919 * len(done),
            n_startup_trials=algorithm.startup,
            constant_liar=True,
        )
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        for group in done:
            self._study.add_trial(self._frozen(group))
        for group in self._tried.values():
            if self._missing(group):
                self._go_on(next(iter(group.values())).setting, group)
        self._new = max(0, algorithm.samples - len(self._tried))

    @property
    def left(self) -> int:
        """Trials that may still be given out."""
        return len(self._queue) + self._new * len(self._seeds)

    def next(self) -> Proposed | None:
        """The next seed of a setting that was begun, or a new setting."""
        if not self._queue and self._new:
            self._propose()
        return self._queue.pop(0) if self._queue else None

    def ended(self, trial: Trial) -> None:
        """Tell Optuna once all seeds of the setting are there."""
        digest = digest_of(trial.setting)
        group = self._tried.setdefault(digest, {})
        group[trial.seed] = trial
        asked = self._asked.get(digest)
        if asked is None or set(self._seeds) - group.keys():
            return
        frozen = self._frozen(group)
        for step, value in frozen.intermediate_values.items():
            asked.report(value, step)
        self._study.tell(asked, frozen.value, state=frozen.state)
        del self._asked[digest]

    def _propose(self) -> None:
        for _ in range(_REPEATED_PROPOSALS):
            asked = self._study.ask(self._distributions)
            setting = {key: self._value(key, asked.params[key]) for key in self._axes}
            if not self._known(setting):
                self._take(setting, asked)
                return
            # Trained before, and the same again: what is known counts once more.
            group = self._tried.get(digest_of(setting))
            if group and not set(self._seeds) - group.keys():
                frozen = self._frozen(group)
                self._study.tell(asked, frozen.value, state=frozen.state)
            else:
                self._study.tell(asked, state=TrialState.FAIL)
        other = untried(self._axes, self._known, self._random)
        if other is not None:
            self._take(other, self._ask_for(other))
            return
        count = len(self._tried.keys() | self._asked.keys())
        logger.info("every setting of the space was tried, %d in all", count)
        self._new = 0

    def _known(self, setting: Setting) -> bool:
        digest = digest_of(setting)
        return digest in self._tried or digest in self._asked

    def _take(self, setting: Setting, asked: optuna.trial.Trial) -> None:
        self._new -= 1
        self._asked[digest_of(setting)] = asked
        number = self._numbers.of(setting)
        self._queue += [Proposed(number, setting, seed) for seed in self._seeds]

    def _ask_for(self, setting: Setting) -> optuna.trial.Trial:
        """Optuna's trial of a setting that it did not choose."""
        self._study.enqueue_trial({key: self._parameter(key, setting[key]) for key in self._axes})
        return self._study.ask(self._distributions)

    def _missing(self, group: dict[int, Trial]) -> list[int]:
        """Seeds of a setting that still have to be trained."""
        return [seed for seed in self._seeds if seed not in group or is_open(group[seed].state)]

    def _go_on(self, setting: Setting, group: dict[int, Trial]) -> None:
        self._asked[digest_of(setting)] = self._ask_for(setting)
        number = self._numbers.of(setting)
        for seed in self._missing(group):
            group.pop(seed, None)
            self._queue.append(Proposed(number, setting, seed))

    def _frozen(self, group: Mapping[int, Trial]) -> optuna.trial.FrozenTrial:
        """A setting's trials, of the seeds that count, as one of Optuna's."""
        trials = [group[seed] for seed in self._seeds]
        params = {key: self._parameter(key, trials[0].setting[key]) for key in self._axes}
        frozen = partial(create_trial, params=params, distributions=self._distributions)
        errors = [trial.error for trial in trials]
        finished = [error for error in errors if error is not None]
        if len(finished) == len(trials) and all(map(math.isfinite, finished)):
            return frozen(value=fmean(finished))
        if any(trial.state == "failed" for trial in trials):
            return frozen(state=TrialState.FAIL)
        # Where the shortest was stopped, all can be compared.
        shortest = min((trial.curve for trial in trials), key=len)
        steps = [epoch for epoch, _ in shortest]
        curves = [dict(trial.curve) for trial in trials]
        reached = {step: fmean([curve.get(step, 100.0) for curve in curves]) for step in steps}
        return frozen(state=TrialState.PRUNED, intermediate_values=reached)

    def _parameter(self, key: str, value: Any) -> Any:
        """A value as Optuna has it: those of a choice are text, since sections cannot be."""
        return _text(value) if isinstance(self._axes[key], Choice | GridAxis) else value

    def _value(self, key: str, parameter: Any) -> Any:
        axis = self._axes[key]
        if isinstance(axis, Choice | GridAxis):
            return next(value for value in axis.values if _text(value) == parameter)
        return float(f"{parameter:.12g}") if isinstance(axis, QuantizedUniform) else parameter


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _distribution(axis: Axis) -> BaseDistribution:
    match axis:
        case Choice() | GridAxis():
            return CategoricalDistribution([_text(value) for value in axis.values])
        case Uniform():
            return FloatDistribution(axis.low, axis.high)
        case QuantizedUniform():
            return FloatDistribution(axis.low, axis.high, step=axis.q)
        case LogUniform():
            return FloatDistribution(axis.low, axis.high, log=True)
        case RandomInteger():
            return IntDistribution(axis.low, axis.high, step=axis.step)
        case LogRandomInteger():
            return IntDistribution(axis.low, axis.high, log=True)
