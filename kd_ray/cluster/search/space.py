"""Settings of a search: drawn, named, and checked against the schema before anything starts."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.load import ConfigError, apply_overrides, check, read_yaml
from kd_ray.config.search import (
    FIXED_KEYS,
    SET_BY_THE_SEARCH,
    Axis,
    Choice,
    GridAxis,
    GridSearch,
    LogRandomInteger,
    LogUniform,
    OptunaSearch,
    QuantizedUniform,
    RandomInteger,
    SearchConfig,
    Uniform,
)
from kd_ray.config.sources import HostSettings, PoolSource
from kd_ray.report.search import Setting, setting_text

_CHECKED_COMBINATIONS = 2000
_CHECKED_DRAWS = 200
_REDRAWS = 100
_COUNTED_SETTINGS = 10_000


@dataclass(frozen=True)
class Base:
    """What all trials have in common."""

    path: str
    content: Mapping[str, Any]
    """As the file and the search's overrides say it, defaults not filled in."""
    config: TrainConfig | DistillConfig
    pool: str | None
    """Name of the pool that the search brings up for its trials."""


def read_base(config: SearchConfig, root: Path) -> Base:
    """The search's base, checked.

    Raises:
        ConfigError: it is no training, or cannot be searched with these settings of the search.
    """
    place = Path(config.base)
    content = apply_overrides(
        read_yaml(place if place.exists() else root / place), config.overrides
    )
    checked = check(content, f"base {config.base}")
    if not isinstance(checked, TrainConfig | DistillConfig):
        raise ConfigError(
            f"base: {config.base} is a configuration for "
            f"`kd-ray {checked.command}`, not for `kd-ray train` or "  # type: ignore[attr-defined]
            "`kd-ray distill`"
        )
    _require_applicable(config, checked)
    if config.pool is None:
        return Base(config.base, content, checked, None)
    source = checked.teachers.source if isinstance(checked, DistillConfig) else None
    if isinstance(source, PoolSource) and source.name is not None:
        raise ConfigError(
            f"pool: {config.base} asks the pool {source.name!r}, which runs already; leave out "
            "pool, or set teachers.source to {type: local} in overrides"
        )
    if not isinstance(checked, DistillConfig) or checked.teachers.list is None:
        raise ConfigError(
            f"pool: the search is to bring up teachers, but {config.base} names none "
            "(teachers.list); leave out pool, or name them"
        )
    return Base(config.base, content, checked, pool_name(config.name))


def _require_applicable(config: SearchConfig, base: TrainConfig | DistillConfig) -> None:
    """Refuse amounts for a trial's process where other processes do the work."""
    given = {"cpus": config.cpus_per_trial, "gpus": config.gpus_per_trial}
    for name, amount in given.items():
        if amount is not None and base.workers.grouped:
            raise ConfigError(
                f"{name}_per_trial: {config.base} trains in a worker group, whose workers take "
                f"workers.{name} each ({getattr(base.workers, name):g}); leave {name}_per_trial "
                f"out, and set workers.{name} in overrides"
            )


def pool_name(search: str) -> str:
    """The pool that a search brings up."""
    return f"search-{search.replace('/', '-')}"


def digest_of(setting: Setting) -> str:
    """Equal for equal settings, whatever the order of their keys."""
    text = json.dumps(setting, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def trial_config(
    base: Base, setting: Setting, *, name: str, seed: int, asks_pool: bool = True
) -> TrainConfig | DistillConfig:
    """The configuration of a trial.

    Args:
        base: of the search.
        setting: dotted keys to values, merged in as overrides on the command line are.
        name: of the run.
        seed: of the training.
        asks_pool: False: teachers are where the base says, also if the search has a pool.

    Raises:
        ConfigError: the setting does not fit.
    """
    content = apply_overrides(base.content, setting)
    content = apply_overrides(content, {"name": name, "training.seed": seed})
    where = f"setting {setting_text(setting)}"
    checked = check(content, where)
    if asks_pool and base.pool is not None:
        assert isinstance(checked, DistillConfig)
        checked = check(_in_pool(content, checked, base.pool), where)
    assert isinstance(checked, TrainConfig | DistillConfig)
    return checked


def _keys_of_the_job() -> set[str]:
    """What a job says about how it asks a pool, whoever brings that up."""
    return PoolSource.model_fields.keys() - HostSettings.model_fields.keys() - {"type", "name"}


def _in_pool(content: dict[str, Any], checked: DistillConfig, pool: str) -> dict[str, Any]:
    """The same with teachers in the search's pool; a job's own limits stay."""
    source: dict[str, Any] = {"type": "pool", "name": pool}
    before = checked.teachers.source
    if isinstance(before, PoolSource):
        source |= {key: getattr(before, key) for key in _keys_of_the_job()}
    return {**content, "teachers": {**content["teachers"], "source": source}}


def longest_epochs(config: SearchConfig, base: Base) -> int:
    """No trial of the search has more epochs."""
    # Of axes that set them all, the last one wins: the largest of any is enough.
    alone = [{key: value} for key, axis in config.space.items() for value in _ends(axis)]
    configs = [trial_config(base, setting, name="trial", seed=1) for setting in alone]
    return max(each.training.epochs for each in [base.config, *configs])


def listed_settings(config: SearchConfig) -> list[Setting] | None:
    """All settings of a grid or of random draws, in order; None where scores decide (optuna)."""
    algorithm = config.algorithm
    if isinstance(algorithm, OptunaSearch):
        return None
    if isinstance(algorithm, GridSearch):
        return list(_combinations(config.space, {}))
    crossed = {key: axis for key, axis in config.space.items() if isinstance(axis, GridAxis)}
    found: dict[str, Setting] = {}
    for index in range(algorithm.samples):
        for redraw in range(_REDRAWS):
            # Each draw depends on its number alone, so that more samples continue the sequence.
            generator = random.Random(f"{algorithm.seed}/{index}/{redraw}")
            drawn = {key: draw(axis, generator) for key, axis in config.space.items()}
            settings = {digest_of(each): each for each in _combinations(crossed, drawn)}
            if not settings.keys() & found.keys():
                found |= settings
                break
    return list(found.values())


def _combinations(axes: Mapping[str, Axis], rest: Setting) -> Iterator[Setting]:
    """Every combination of listed values, over the other keys of `rest`."""
    listed = [_values(axis) for axis in axes.values()]
    for values in itertools.product(*listed):
        yield {**rest, **dict(zip(axes, values, strict=True))}


def _values(axis: Axis) -> Sequence[Any]:
    assert isinstance(axis, Choice | GridAxis)
    return axis.values


def draw(axis: Axis, generator: random.Random) -> Any:
    """A value of an axis by chance."""
    match axis:
        case Choice() | GridAxis():
            return axis.values[generator.randrange(len(axis.values))]
        case Uniform():
            return generator.uniform(axis.low, axis.high)
        case QuantizedUniform():
            return _step(axis, generator.randint(0, _steps(axis)))
        case LogUniform():
            return math.exp(generator.uniform(math.log(axis.low), math.log(axis.high)))
        case RandomInteger():
            return axis.low + axis.step * generator.randint(0, (axis.high - axis.low) // axis.step)
        case LogRandomInteger():
            # Half a step beyond both ends, so that these are as likely as their neighbours.
            low, high = math.log(axis.low - 0.5), math.log(axis.high + 0.5)
            value = round(math.exp(generator.uniform(low, high)))
            return min(max(value, axis.low), axis.high)


def untried(
    axes: Mapping[str, Axis], known: Callable[[Setting], bool], generator: random.Random
) -> Setting | None:
    """A setting by chance that is not known; None where every one is."""
    for _ in range(_REDRAWS):
        setting = {key: draw(axis, generator) for key, axis in axes.items()}
        if not known(setting):
            return setting
    listed = [_every(axis) for axis in axes.values()]
    if math.prod(map(len, listed)) > _COUNTED_SETTINGS:
        # Then hardly any of the draws would have been known.
        return None
    rest = [
        setting
        for values in itertools.product(*listed)
        if not known(setting := dict(zip(axes, values, strict=True)))
    ]
    return generator.choice(rest) if rest else None


def _every(axis: Axis) -> Sequence[Any]:
    """All values of an axis; of continuous ones so many that nobody counts them."""
    match axis:
        case Choice() | GridAxis():
            return axis.values
        case QuantizedUniform():
            return [_step(axis, number) for number in range(_steps(axis) + 1)]
        case RandomInteger():
            return range(axis.low, axis.high + 1, axis.step)
        case LogRandomInteger():
            return range(axis.low, axis.high + 1)
        case Uniform() | LogUniform():
            return range(_COUNTED_SETTINGS + 1)


def _steps(axis: QuantizedUniform) -> int:
    return int((axis.high - axis.low) / axis.q + 1e-9)


def _step(axis: QuantizedUniform, number: int) -> float:
    # Sums of steps would carry rounding errors into names and digests.
    return float(f"{axis.low + number * axis.q:.12g}")


def _ends(axis: Axis) -> Sequence[Any]:
    match axis:
        case Choice() | GridAxis():
            return axis.values
        case QuantizedUniform():
            return (axis.low, _step(axis, _steps(axis)))
        case _:
            return (axis.low, axis.high)


def check_space(config: SearchConfig, base: Base) -> None:
    """Refuse values that the schema refuses, all at once.

    Every listed value and both ends of every range are tried with the base alone, then the
    settings that are known in advance; of optuna's, some draws.

    Raises:
        ConfigError: names every axis, its values, and what is wrong.
    """
    problems: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for key, axis in config.space.items():
        for value in _ends(axis):
            wrong = _wrong(base, {key: value})
            if wrong:
                shown = json.dumps(value, ensure_ascii=False)
                problems.setdefault((key, wrong), []).append(shown)
    lines = []
    for (key, wrong), values in problems.items():
        several = "values" if len(values) > 1 else "value"
        lines.append(f"  space.{key}, {several} {', '.join(values)}:")
        lines += [f"  {line}" for line in wrong]
    lines += [] if problems else _wrong_combinations(config, base)
    if lines:
        raise ConfigError(
            f"search {config.name}: the space does not fit {config.base}\n" + "\n".join(lines)
        )


def _wrong_combinations(config: SearchConfig, base: Base) -> list[str]:
    settings = listed_settings(config)
    if settings is None:
        generators = (random.Random(index) for index in range(_CHECKED_DRAWS))
        settings = [
            {key: draw(axis, generator) for key, axis in config.space.items()}
            for generator in generators
        ]
    stride = math.ceil(len(settings) / _CHECKED_COMBINATIONS)
    tried = settings[::stride]
    refused = [(each, wrong) for each in tried if (wrong := _wrong(base, each))]
    if not refused:
        return []
    setting, wrong = refused[0]
    return [
        f"  {len(refused)} of {len(tried)} combinations are refused, the first: "
        f"{setting_text(setting)}",
        *(f"  {line}" for line in wrong),
        "  What only goes together belongs into one axis, as sections of a key above both: "
        "{type: choice, values: [{...}, {...}]}",
    ]


def _wrong(base: Base, setting: Setting) -> tuple[str, ...]:
    """What speaks against a setting, a line each; () if nothing."""
    try:
        checked = trial_config(base, setting, name="trial", seed=1, asks_pool=False)
        if base.pool is not None:
            trial_config(base, setting, name="trial", seed=1)
    except ConfigError as error:
        return tuple(str(error).splitlines()[1:])
    return (*_not_comparable(base, setting, checked), *_not_asked(base, checked))


def _not_comparable(
    base: Base, setting: Setting, checked: TrainConfig | DistillConfig
) -> Iterator[str]:
    """Keys that all trials must share, wherever in a setting they stand."""
    own = apply_overrides({}, setting)
    mine, theirs = checked.model_dump(mode="json"), base.config.model_dump(mode="json")
    for key, why in FIXED_KEYS.items():
        if key in SET_BY_THE_SEARCH:
            if _at(own, key) is not None:
                yield f"  {key}: cannot be searched over; {why}"
        elif _at(mine, key) != _at(theirs, key):
            yield (
                f"  {key}: {json.dumps(_at(mine, key))} here, {json.dumps(_at(theirs, key))} in "
                f"the base; this key cannot be searched over: {why}"
            )


def _at(content: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _not_asked(base: Base, checked: TrainConfig | DistillConfig) -> Iterator[str]:
    """What a setting says of teachers' places, where the search has them in a pool of its own."""
    if base.pool is None:
        return
    assert isinstance(base.config, DistillConfig)
    assert isinstance(checked, DistillConfig)
    mine, theirs = (each.teachers.source.model_dump(mode="json") for each in (checked, base.config))
    different = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    # Another type has all of its keys of its own.
    for key in ["type"] if "type" in different else different:
        if key not in _keys_of_the_job():
            yield (
                f"  teachers.source.{key}: {json.dumps(mine.get(key))} here, "
                f"{json.dumps(theirs.get(key))} in the base; trials ask the pool of the search, so "
                "this would change nothing: set it in the section pool, or leave out pool"
            )
