"""What a trial takes, and how many fit at a time.

Ray Tune counts only what a trial itself reserves: worker groups and teacher hosts that a trial
starts have to be counted here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kd_ray.cluster.search.space import Base
from kd_ray.config.commands import DistillConfig
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import HostSettings, PoolSource

_EPSILON = 1e-9
GROUP_CPUS = 0.1
"""Of a trial that only looks after a worker group."""


@dataclass(frozen=True)
class Needs:
    """What a search takes of a cluster: amounts of `CPU`, `GPU` and custom resources, by name."""

    pool: Mapping[str, float]
    """Hosts that all trials share."""
    trial: Mapping[str, float]
    """Of each trial, with the workers and hosts that it starts."""
    reserved: Mapping[str, float]
    """Of these, what Tune reserves for the trial's process."""


def needs_of(config: SearchConfig, base: Base) -> Needs:
    """What a search takes."""
    workers = base.config.workers
    own = {
        "CPU": config.cpus_per_trial or workers.cpus,
        "GPU": workers.gpus if config.gpus_per_trial is None else config.gpus_per_trial,
    }
    pool = {} if config.pool is None else _hosts(config.pool)
    hosts: Mapping[str, float] = {}
    if config.pool is None and isinstance(base.config, DistillConfig):
        source = base.config.teachers.source
        if isinstance(source, PoolSource) and source.name is None:
            hosts = _hosts(source)
    if not workers.grouped:
        return Needs(_some(pool), _sum(own, hosts), _some(own))
    looks_after = {"CPU": GROUP_CPUS}
    group = _times(workers.most, own | workers.resources_per_worker)
    return Needs(_some(pool), _sum(looks_after, group, hosts), looks_after)


def _hosts(settings: HostSettings) -> dict[str, float]:
    each = {"CPU": settings.cpus_per_host, "GPU": settings.gpus_per_host}
    return _times(settings.hosts, each | settings.resources_per_host)


def _times(count: int, each: Mapping[str, float]) -> dict[str, float]:
    return {name: count * amount for name, amount in each.items()}


def _sum(*amounts: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys(name for each in amounts for name in each)
    return _some({name: sum(each.get(name, 0.0) for each in amounts) for name in names})


def _some(amounts: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if amount}


def slots(config: SearchConfig, needs: Needs, cluster: Mapping[str, float]) -> int:
    """Trials at a time: those asked for, else as many as the cluster holds; at least one.

    Where not even one fits (see `shortage`), that one waits for a cluster that grows.
    """
    if config.concurrent is not None:
        return config.concurrent
    return max(1, int(min(_fits(needs, cluster).values()) + _EPSILON))


def shortage(needs: Needs, cluster: Mapping[str, float]) -> str | None:
    """Why not even one trial fits beside the pool; None: it does."""
    lacking = [name for name, fits in _fits(needs, cluster).items() if fits < 1 - _EPSILON]
    lacking += [
        name
        for name, amount in needs.pool.items()
        if name not in needs.trial and amount > cluster.get(name, 0.0) + _EPSILON
    ]
    if not lacking:
        return None
    return "; ".join(
        f"a trial takes {needs.trial.get(name, 0.0):g} {name}"
        + (f" and the pool {needs.pool[name]:g}" if name in needs.pool else "")
        + f", there are {cluster.get(name, 0.0):g}"
        for name in lacking
    )


def _fits(needs: Needs, cluster: Mapping[str, float]) -> dict[str, float]:
    """Trials at a time that each resource has room for, beside the pool."""
    return {
        name: (cluster.get(name, 0.0) - needs.pool.get(name, 0.0)) / each
        for name, each in needs.trial.items()
    }


def private_cpus(config: SearchConfig, needs: Needs, machine: int) -> int:
    """Logical CPUs of a private Ray: those of the machine, and enough for what was asked for."""
    trials = (config.concurrent or 1) * needs.trial["CPU"]
    return max(machine, math.ceil(needs.pool.get("CPU", 0.0) + trials))
