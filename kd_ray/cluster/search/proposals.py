"""Which trial is next: the rest of a list, or what Optuna proposes from the scores so far.

What was tried before, in this process or in one that was killed, comes from run folders alike.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

from kd_ray.cluster.search.book import Proposed
from kd_ray.cluster.search.space import digest_of, listed_settings
from kd_ray.config.search import SearchConfig
from kd_ray.report.search import Setting, Trial


class Proposals(Protocol):
    """Gives out trials, and hears what became of them."""

    @property
    def left(self) -> int:
        """Trials that may still be given out, at most."""
        ...

    def next(self) -> Proposed | None:
        """The next trial; None: there is no further one."""
        ...

    def ended(self, trial: Trial) -> None:
        """One that was given out has come to its end."""
        ...


def proposals_of(config: SearchConfig, known: Sequence[Trial]) -> Proposals:
    """The trials of a search that still have to be trained.

    Args:
        config: of the search.
        known: every trial that was begun before.
    """
    settings = listed_settings(config)
    if settings is not None:
        return Listed(settings, config.seeds, known)
    # Optuna takes a second to import.
    from kd_ray.cluster.search.optuna_proposals import OptunaProposals

    return OptunaProposals(config, known)


class Listed:
    """Settings known from the start. The first seed of all comes before the second of any."""

    def __init__(
        self, settings: Sequence[Setting], seeds: Sequence[int], known: Sequence[Trial]
    ) -> None:
        states = {trial.key: trial.state for trial in known}
        numbers = Numbers(known)
        every = [
            Proposed(numbers.of(setting), setting, seed)
            for seed, setting in itertools.product(seeds, settings)
        ]
        self._waiting = sorted(
            (each for each in every if is_open(states.get(each.key))),
            key=lambda each: _TURN[states.get(each.key)],
        )

    @property
    def left(self) -> int:
        """Trials that were not given out yet."""
        return len(self._waiting)

    def next(self) -> Proposed | None:
        """Interrupted ones, then new ones, then those that failed before."""
        return self._waiting.pop(0) if self._waiting else None

    def ended(self, trial: Trial) -> None:
        """The list does not depend on scores."""


_TURN = {"unfinished": 0, None: 1, "failed": 2}


def is_open(state: str | None) -> bool:
    """Whether a trial of this state is (or goes on being) trained."""
    return state in _TURN


class Numbers:
    """Numbers of settings, the same in every run of a search."""

    def __init__(self, known: Sequence[Trial]) -> None:
        self._known = {digest_of(trial.setting): trial.number for trial in known}
        self._next = max(self._known.values(), default=0) + 1

    def of(self, setting: Setting) -> int:
        """Its own, or the next free one."""
        digest = digest_of(setting)
        if digest not in self._known:
            self._known[digest] = self._next
            self._next += 1
        return self._known[digest]
