"""What `kd-ray check` finds out about the cluster that a run is to go to."""

import os
from dataclasses import replace
from pathlib import Path

from kd_ray.cluster.room import Wish
from kd_ray.cluster.search.resources import needs_of
from kd_ray.cluster.search.space import read_base
from kd_ray.config.base import Section
from kd_ray.config.commands import (
    DistillConfig,
    InferTeachersConfig,
    TrainConfig,
    TrainTeachersConfig,
)
from kd_ray.config.placing import DecodingActors, PlacedActors
from kd_ray.config.pool import PoolConfig
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import HostSettings, PoolSource
from kd_ray.config.training import Training, Workers

_HOSTS = "teacher hosts"


def named_cluster() -> str | None:
    """The address in `RAY_ADDRESS`; None where commands start a private Ray."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def check_cluster(config: Section, address: str | None, root: Path) -> tuple[list[str], list[str]]:
    """Problems and notes: versions and resources of the cluster at `address`.

    Raises:
        ValueError: the cluster cannot be joined.
    """
    wishes = wishes_of(config, root)
    if address is None:
        return [
            f"{wish}: custom resources and labels are those of a cluster's nodes; name the cluster "
            "(kd-ray check --address ..., RAY_ADDRESS), or leave them out"
            for wish in wishes
            if wish.labels or wish.resources.keys() - {"CPU", "GPU"}
        ], []
    from kd_ray.cluster.compare import compare, look_at, my_versions

    compared = compare(my_versions(), look_at(address), wishes)
    return compared.problems, compared.notes


def wishes_of(config: Section, root: Path) -> list[Wish]:
    """What a command reserves on a cluster, all at the same time.

    Of commands that take what they find (teachers' trainings, inference), the least that they
    need; of recipes and studies the tasks alone, whose own files can be checked by themselves.
    """
    wishes: list[Wish] = []
    match config:
        case DistillConfig():
            wishes += _worker_wishes(config.workers)
            source = config.teachers.source
            # Hosts of a pool that runs already are nothing that this job needs.
            if isinstance(source, PoolSource) and source.name is None:
                wishes.append(_hosts(source))
        case TrainConfig():
            wishes += _worker_wishes(config.workers)
        case TrainTeachersConfig():
            wishes.append(_workers(config.base.workers, "training workers of one teacher"))
        case InferTeachersConfig():
            wishes.append(_actors("inference actors", config, config.actors))
        case DecodingActors() if config.actors:
            wishes.append(_actors("decoding actors", config, config.actors))
        case PoolConfig():
            wishes.append(_hosts(config.hosts))
        case SearchConfig():
            wishes += _search_wishes(config, root)
        case RecipeConfig():
            wishes.append(_tasks(max(step.parallel for step in config.steps)))
        case StudyConfig():
            wishes.append(_tasks(config.parallel))
    return wishes


def _actors(what: str, each: PlacedActors, actors: int) -> Wish:
    """One is enough to begin with."""
    resources = {"CPU": each.cpus_per_actor, "GPU": each.gpus_per_actor}
    resources |= each.resources_per_actor
    return Wish(what, 1, resources, each.label_selector, actors if actors > 1 else None)


def notes_of_changes(workers: Workers, training: Training) -> list[str]:
    """What a number of workers that may change brings with it."""
    if workers.fewest == workers.most:
        return []
    changes = f"workers.count is {workers.fewest} to {workers.most}"
    notes = []
    if training.checkpoint_every_updates is None:
        notes.append(
            f"{changes}: each change takes the group back to its last checkpoint, which is that of "
            "an epoch's end; training.checkpoint_every_updates makes that cheaper"
        )
    if not workers.resources_per_worker:
        notes.append(
            f"{changes}, without resources_per_worker: Ray Train counts what nodes have, not what "
            "is free, so teacher hosts or other jobs on the same nodes can keep a group from "
            "starting; with a custom resource workers have nodes of their own"
        )
    return notes


def _search_wishes(config: SearchConfig, root: Path) -> list[Wish]:
    """The pool of all trials, and one trial: more of them run as far as there is room."""
    base = read_base(config, root)
    each = _worker_wishes(base.config.workers)
    if not base.config.workers.grouped:
        each = [Wish("trials", 1, needs_of(config, base).reserved)]
    if config.pool is not None:
        shared = [_hosts(config.pool)]
    else:
        shared = []
        each += [wish for wish in wishes_of(base.config, root) if wish.what == _HOSTS]
    trials = config.concurrent or 1
    return shared + [replace(wish, count=trials * wish.count, most=None) for wish in each]


def _worker_wishes(workers: Workers) -> list[Wish]:
    # One worker without a GPU runs in the process of the command, which reserves nothing.
    return [_workers(workers, "training workers")] if workers.grouped or workers.gpus else []


def _workers(workers: Workers, what: str) -> Wish:
    resources = {"CPU": workers.cpus, "GPU": workers.gpus} | workers.resources_per_worker
    most = workers.most if workers.most > workers.fewest else None
    return Wish(what, workers.fewest, resources, workers.label_selector, most)


def _hosts(hosts: HostSettings) -> Wish:
    resources = {"CPU": hosts.cpus_per_host, "GPU": hosts.gpus_per_host} | hosts.resources_per_host
    return Wish(_HOSTS, hosts.hosts, resources, hosts.label_selector)


def _tasks(count: int) -> Wish:
    return Wish("tasks", count, {"CPU": 1.0})
