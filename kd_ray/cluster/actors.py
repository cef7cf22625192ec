"""How many actors of a kind a cluster has room for."""

import logging
from typing import Any

import ray

from kd_ray.cluster.room import GROUP_LABEL, Node, Wish, room_for, shortages

logger = logging.getLogger(__name__)


def as_many_as_fit(wish: Wish) -> int:
    """As many actors as wanted, but no more than the running cluster has room for.

    Raises:
        ValueError: it has none for even one.
    """
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [
        Node(node["NodeID"], dict(node["Resources"]), dict(node["Labels"]))
        for node in found
        if node["Alive"]
    ]
    room = room_for(wish, nodes)
    if room < wish.count and any(GROUP_LABEL in node.labels for node in nodes):
        logger.info("%d actors, room for %d: the autoscaler may start nodes", wish.count, room)
        return wish.count
    if room < 1:
        (why,) = shortages([wish], nodes)
        raise ValueError(
            f"{why}; lower cpus_per_actor or gpus_per_actor, leave out resources_per_actor or "
            "label_selector, or start Ray with more"
        )
    if room < wish.count:
        logger.warning("%d actors were asked for, the cluster has room for %d", wish.count, room)
    return min(room, wish.count)
