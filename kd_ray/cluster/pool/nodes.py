"""Where hosts sit: the node, the share of its devices, and what a pool's nodes have."""

import socket
from collections.abc import Iterable
from dataclasses import dataclass

import ray
import torch

_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Seat:
    """What a host has of its node."""

    hostname: str
    device: str
    """`cpu`, or the name of the GPU."""
    cpus: float
    gpus: float
    """A fraction where hosts share a device."""


@dataclass(frozen=True)
class NodeView:
    """A node on which hosts of a pool sit."""

    node: str
    hostname: str
    alive: bool
    cpus: float
    gpus: float
    gpu_type: str
    """As Ray names it; empty without GPUs."""
    hosts: int
    """Of the pool."""
    gpus_of_hosts: float


def seat_here() -> Seat:
    """The seat of the actor that calls."""
    context = ray.get_runtime_context()
    assigned = context.get_assigned_resources()  # type: ignore[no-untyped-call]
    gpus = float(assigned.get("GPU", 0.0))
    device = torch.cuda.get_device_name(0) if gpus and torch.cuda.is_available() else "cpu"
    return Seat(socket.gethostname(), device, float(assigned.get("CPU", 0.0)), gpus)


def node_views(hosts: Iterable[tuple[str, Seat]]) -> tuple[NodeView, ...]:
    """The nodes of some hosts, given by (node, seat), in the order of their first host."""
    seats: dict[str, list[Seat]] = {}
    for node, seat in hosts:
        seats.setdefault(node, []).append(seat)
    known = {str(each["NodeID"]): each for each in ray.nodes()}  # type: ignore[no-untyped-call]
    views = []
    for node, here in seats.items():
        found = known.get(node, {})
        resources = found.get("Resources", {})
        types = [name.removeprefix(_ACCELERATOR) for name in resources if _ACCELERATOR in name]
        views.append(
            NodeView(
                node=node,
                hostname=here[0].hostname,
                alive=bool(found.get("Alive", False)),
                cpus=float(resources.get("CPU", 0.0)),
                gpus=float(resources.get("GPU", 0.0)),
                gpu_type=", ".join(sorted(types)),
                hosts=len(here),
                gpus_of_hosts=sum(seat.gpus for seat in here),
            )
        )
    return tuple(views)
