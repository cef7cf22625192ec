"""How many workers a group has, where that may change: what Ray Train is asked for, what is told.

Ray Train ends a group that loses a worker, or that finds room for more, and starts another of the
size that the cluster has room for. The new group goes on from the last checkpoint of the run.
"""

import logging
from collections.abc import Collection, Sequence
from typing import Any

import ray

from kd_ray.config.training import Workers
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
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


def record_size(workers: Workers, run: RunFolder, collective: Collective) -> None:
    """Write down the size of a group that may have another one than the group before it.

    Every worker of the group calls this; the first one writes the event.
    """
    if isinstance(workers.count, int):
        return
    here = ray.get_runtime_context().get_node_id()
    places = collective.gather({str(collective.rank): here})
    if collective.rank != 0:
        return
    now = [places[str(rank)] for rank in range(collective.world)]
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    names = {node["NodeID"]: _name(node) for node in nodes}
    alive = {names[node["NodeID"]] for node in nodes if node["Alive"]}
    group = [names[node] for node in now]
    before = _last_group(run)
    reason = why(before, group, alive, workers.most)
    run.event(
        EVENT, before=None if before is None else len(before), now=len(group),
        most=workers.most, reason=reason, nodes=group,
    )  # fmt: skip
    logger.info("%s: %d of at most %d workers: %s", run.name, len(group), workers.most, reason)


def why(before: Sequence[str] | None, now: Sequence[str], alive: Collection[str], most: int) -> str:
    """The reason for a group's size, as far as nodes tell it.

    Args:
        before: the node of each worker of the group before; None: this is the first one.
        now: likewise of this one.
        alive: nodes of the cluster.
        most: workers that the group may have.
    """
    if before is None:
        return "the first group" + ("" if len(now) == most else ", with room for so many")
    lost = [node for node in before if node not in alive]
    new = [node for node in now if node not in before]
    if len(now) < len(before):
        if lost:
            return f"lost with their nodes: {len(lost)} on {_listed(lost)}"
        return "a worker was lost, and its place is not free any more"
    if len(now) > len(before):
        return f"room for more on {_listed(new)}" if new else "room for more on the same nodes"
    return "started again with as many" + (f"; lost: {_listed(lost)}" if lost else "")


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(sorted(set(nodes)))


def _last_group(run: RunFolder) -> list[str] | None:
    """Nodes of the workers of the latest group of this run."""
    path = run.path / "events.jsonl"
    if not path.exists():
        return None
    groups = [event["nodes"] for event in read_json_lines(path) if event["kind"] == EVENT]
    return list(groups[-1]) if groups else None
