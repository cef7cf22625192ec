"""`kd-ray search`: many trainings of one base file, over a space of its dotted keys."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.evaluation import Head
from kd_ray.config.sources import HostSettings


def _different(values: Sequence[Any]) -> Sequence[Any]:
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(texts)) != len(texts):
        raise ValueError(f"values must differ, got {', '.join(texts)}")
    return values


Values = Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(_different)]
"""Scalars, lists or whole sections such as `{type: weighted, scope: batch}`."""


class Choice(Section):
    """One of these values."""

    type: Literal["choice"]
    values: Values


class GridAxis(Section):
    """Each of these values, with everything else that is tried."""

    type: Literal["grid"]
    values: Values


class _Range(Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self


class Uniform(_Range):
    """Any number from `low` to `high`."""

    type: Literal["uniform"]


class QuantizedUniform(_Range):
    """`low`, and steps of `q` above it, up to `high`."""

    type: Literal["quniform"]
    q: float = Field(gt=0)


class LogUniform(_Range):
    """Any number from `low` to `high`, evenly over its logarithm."""

    type: Literal["loguniform"]
    low: float = Field(gt=0)


class _IntegerRange(Section):
    low: int
    high: int
    """Included."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class RandomInteger(_IntegerRange):
    """`low`, and steps of `step` above it, up to `high`."""

    type: Literal["randint"]
    step: int = Field(1, ge=1)


class LogRandomInteger(_IntegerRange):
    """A whole number from `low` to `high`, evenly over its logarithm."""

    type: Literal["lograndint"]
    low: int = Field(ge=1)


Axis = Annotated[
    Choice | GridAxis | Uniform | QuantizedUniform | LogUniform | RandomInteger | LogRandomInteger,
    Field(discriminator="type"),
]


class GridSearch(Section):
    """Every combination of the listed values."""

    type: Literal["grid"] = "grid"


class RandomSearch(Section):
    """Settings drawn by chance, each with every combination of the axes of type `grid`."""

    type: Literal["random"]
    samples: int = Field(ge=1)
    """Draws. More of them later continue the same sequence."""
    seed: int = Field(1, ge=0)


class OptunaSearch(Section):
    """Settings that Optuna's TPE proposes from the scores so far."""

    type: Literal["optuna"]
    samples: int = Field(ge=1)
    """Settings in all."""
    seed: int = Field(1, ge=0)
    startup: int = Field(10, ge=1)
    """So many settings are drawn by chance before scores count."""


Algorithm = Annotated[GridSearch | RandomSearch | OptunaSearch, Field(discriminator="type")]


class NoEarlyStopping(Section):
    """Every trial is trained to its end."""

    type: Literal["none"] = "none"


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2020) on the validation score.

    A trial is looked at in epochs `grace_epochs * reduction_factor ** k`. It goes on if it is among
    the best `1 / reduction_factor` of the trials that came there before.
    """

    type: Literal["asha"]
    grace_epochs: int = Field(1, ge=1)
    """No trial is stopped before."""
    reduction_factor: float = Field(3.0, gt=1)


Scheduler = Annotated[NoEarlyStopping | Asha, Field(discriminator="type")]


class SearchEvaluation(Section):
    """Finished trials are decoded and scored once more, with every hypothesis kept."""

    splits: dict[str, str] = Field(min_length=1)
    """Split name to manifest; the last one is the one that settings are compared on."""
    decoding: Head | None = None
    """null: what selects the best model in training (CTC or attention)."""
    batch_size: int = Field(32, ge=1)


FIXED_KEYS = {
    "name": "each trial has a name of its own",
    "command": "it is that of the base",
    "training.seed": "give seeds beside the space",
    "training.select_by": "trials are compared by one score",
    "data.valid": "trials are compared on one split",
    "data.column": "trials are compared by one score",
    "data.tokens": "trials are compared by errors in one unit",
}
"""Keys of the base that no axis may have, and why."""

SET_BY_THE_SEARCH = ("name", "training.seed")
"""Of these, what each trial has of its own: a setting that names them would not be heard."""


class SearchConfig(Section):
    """`kd-ray search`: trainings over a space of settings, on Ray Tune."""

    command: Literal["search"]
    name: Name
    """Trials are `runs/<name>/trials/...`."""
    base: str
    """A file for `kd-ray train` or `kd-ray distill`."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the base, for all trials."""
    space: dict[str, Axis] = Field(min_length=1)
    """Dotted key of the base to what is tried there."""
    algorithm: Algorithm = GridSearch()
    scheduler: Scheduler = NoEarlyStopping()
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    """`training.seed` of the trials of each setting, whose score is their mean."""
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; null: as many as the resources allow, teachers counted."""
    cpus_per_trial: float | None = Field(None, gt=0)
    """null: what the base's workers take."""
    gpus_per_trial: float | None = Field(None, ge=0)
    """null: what the base's workers take."""
    pool: HostSettings | None = None
    """Hosts of a pool that all trials ask, in place of the base's source; it comes and goes with
    the search. null: the base says where teachers are."""
    evaluate: SearchEvaluation | None = None
    """null: settings are compared by validation scores only."""
    fail_fast: bool = False
    """No further trial is started once one has failed."""

    @model_validator(mode="after")
    def _trials_can_be_compared(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        # A section above such a key is looked at when the space is checked against the base.
        for key in self.space:
            if key in FIXED_KEYS:
                raise ValueError(
                    f"space.{key}: this key cannot be searched over; {FIXED_KEYS[key]}"
                )
        return self

    @model_validator(mode="after")
    def _the_algorithm_knows_the_axes(self) -> Self:
        kind = self.algorithm.type
        if kind == "grid":
            drawn = [k for k, axis in self.space.items() if not isinstance(axis, Choice | GridAxis)]
            if drawn:
                raise ValueError(
                    f"algorithm 'grid' tries every value, and {', '.join(drawn)} has a range; list "
                    "values (type: choice), or take algorithm 'random' or 'optuna'"
                )
        if kind == "optuna":
            crossed = [key for key, axis in self.space.items() if isinstance(axis, GridAxis)]
            if crossed:
                raise ValueError(
                    f"algorithm 'optuna' proposes one value at a time, and {', '.join(crossed)} "
                    "has type 'grid'; take type 'choice', or algorithm 'random'"
                )
        return self
