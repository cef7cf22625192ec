"""How many workers a group has, where that may change: what Ray Train is asked for, what is told.

Ray Train ends a group that loses a worker, or that finds room for more, and starts another of the
size that the cluster has room for. The new group goes on from the last checkpoint of the run.
"""

import logging
import os
import socket
from collections.abc import Collection, Sequence
from typing import Any

import ray

from kd_ray.config.training import Workers
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.students.collective import Collective

logger = logging.getLogger(__name__)

EVENT = "worker_count"


def number_of(workers: Workers) -> dict[str, Any]:
    """The arguments of `ray.train.ScalingConfig` that say how many workers there are."""
    if isinstance(workers.count, int):
        return {"num_workers": workers.count}
    return {
        "num_workers": (workers.count.min, workers.count.max),
        "elastic_resize_monitor_interval_s": workers.count.look_every_s,
    }


def record_group(workers: Workers, run: RunFolder, collective: Collective) -> None:
    """Write down who the workers of a group are, and its size where that may change.

    Every worker of the group calls this; the first one writes the events: lines that several nodes
    append to one file on a network disk may be torn.
    """
    node = ray.get_runtime_context().get_node_id()
    me = {"pid": os.getpid(), "node": socket.gethostname()}
    found = collective.gather({str(collective.rank): (node, me)})
    if collective.rank != 0:
        return
    now = []
    for rank in range(collective.world):
        node, worker = found[str(rank)]
        now.append(node)
        run.event("worker_started", rank=rank, world=collective.world, **worker, node_id=node)
    if not isinstance(workers.count, int):
        _record_size(workers, run, now)


def _record_size(workers: Workers, run: RunFolder, now: Sequence[str]) -> None:
    job = ray.get_runtime_context().get_job_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    names = {node["NodeID"]: _name(node) for node in nodes}
    alive = {names[node["NodeID"]] for node in nodes if node["Alive"]}
    group = [names[node] for node in now]
    last = _last_group(run)
    before = None if last is None else last["nodes"]
    reason = why(
        before, group, alive, workers.most,
        again=last is not None and _of_another_command(last, job, names.values()),
    )  # fmt: skip
    run.event(
        EVENT, before=None if before is None else len(before), now=len(group),
        most=workers.most, reason=reason, nodes=group, job=job,
    )  # fmt: skip
    logger.info("%s: %d of at most %d workers: %s", run.name, len(group), workers.most, reason)


def why(
    before: Sequence[str] | None,
    now: Sequence[str],
    alive: Collection[str],
    most: int,
    *,
    again: bool = False,
) -> str:
    """The reason for a group's size, as far as nodes tell it.

    Args:
        before: the node of each worker of the group before; None: this is the first one.
        now: likewise of this one.
        alive: nodes of the cluster.
        most: workers that the group may have.
        again: the group before was that of a command that has ended.
    """
    if before is None or again:
        first = "the first group" if before is None else "the command was started again"
        return first + ("" if len(now) == most else ", with room for so many")
    lost = [node for node in before if node not in alive]
    new = [node for node in now if node not in before]
    if len(now) < len(before):
        if lost:
            return f"lost with their nodes: {len(lost)} on {_listed(lost)}"
        # Ray Train makes a group smaller, too, when another job came before it.
        return "fewer, and no node is gone: a worker was lost, or others took the room"
    if len(now) > len(before):
        return f"room for more on {_listed(new)}" if new else "room for more on the same nodes"
    return "started again with as many" + (f"; lost: {_listed(lost)}" if lost else "")


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(sorted(set(nodes)))


def _of_another_command(group: dict[str, Any], job: str, nodes: Collection[str]) -> bool:
    """Whether an event tells of a group that this job has not started.

    Jobs of two clusters may have the same number. A cluster remembers nodes that are gone.
    """
    return group.get("job") != job or not set(group["nodes"]).intersection(nodes)


def _last_group(run: RunFolder) -> dict[str, Any] | None:
    """The event of the latest group of this run."""
    groups = [event for event in run.events() if event.get("kind") == EVENT]
    return groups[-1] if groups else None
