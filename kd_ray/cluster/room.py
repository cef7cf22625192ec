"""Whether what a run asks for finds room on a cluster's nodes: plain data, no Ray.

Fractions of a GPU share a device and never span two, as Ray counts them: a host that asks for 0.4
leaves 0.2 of a device that two of them fill, and nobody else can put those leftovers together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GROUP_LABEL = "ray.io/node-group"
"""Label of nodes that `ray up` or KubeRay started, and may start more of."""
_EPSILON = 1e-6
_LIST = re.compile(r"^in\((.*)\)$")


@dataclass(frozen=True)
class Wish:
    """Processes of one kind that a run starts."""

    what: str
    """In the plural, e.g. `teacher hosts`."""
    count: int
    """Without which the run does not begin."""
    resources: Mapping[str, float]
    """That each takes."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Selector of its node."""
    most: int | None = None
    """So many where there is room; None: `count`."""

    def __str__(self) -> str:
        each = " + ".join(f"{value:g} {name}" for name, value in self.resources.items() if value)
        where = ", ".join(f"{name}={value}" for name, value in self.labels.items())
        count = f"{self.count} to {self.most}" if self.most is not None else str(self.count)
        return f"{count} {self.what} with {each or 'nothing'} each" + (
            f" on nodes with {where}" if where else ""
        )


@dataclass(frozen=True)
class Node:
    """What a node of a cluster has in all, whoever uses it at the moment."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with `labels` is one that `selector` asks for.

    Values are `a`, `!a`, `in(a, b)` and `!in(a, b)`; a node without the label is not `a`.
    """
    return all(_holds(labels.get(name), wanted) for name, wanted in selector.items())


def _holds(value: str | None, wanted: str) -> bool:
    asked = wanted.removeprefix("!")
    listed = _LIST.match(asked)
    allowed = [each.strip() for each in listed.group(1).split(",")] if listed else [asked]
    return (value in allowed) != wanted.startswith("!")


class _Room:
    """What is left on a node while processes are put there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._left = {name: value for name, value in node.resources.items() if name != "GPU"}
        self._devices = [1.0] * int(node.resources.get("GPU", 0.0) + _EPSILON)

    def take(self, wish: Wish) -> bool:
        """Put one process here, if it fits."""
        needs = {name: value for name, value in wish.resources.items() if value > 0}
        gpus = needs.pop("GPU", 0.0)
        if not matches(wish.labels, self.node.labels):
            return False
        if any(self._left.get(name, 0.0) + _EPSILON < value for name, value in needs.items()):
            return False
        devices = self._devices_for(gpus)
        if devices is None:
            return False
        for name, value in needs.items():
            self._left[name] -= value
        for index in devices:
            self._devices[index] -= min(gpus, 1.0)
        return True

    def _devices_for(self, gpus: float) -> list[int] | None:
        """Devices that together have so much free; the fullest that has room for a fraction."""
        if gpus <= 0:
            return []
        fitting = [
            index for index, left in enumerate(self._devices) if left + _EPSILON >= min(gpus, 1.0)
        ]
        count = max(1, round(gpus))
        if len(fitting) < count:
            return None
        return sorted(fitting, key=lambda index: self._devices[index])[:count]


def room_for(wish: Wish, nodes: Sequence[Node]) -> int:
    """How many of `wish.count` processes find room on empty nodes."""
    rooms = [_Room(node) for node in nodes]
    return _place(wish, rooms)


def _place(wish: Wish, rooms: Sequence[_Room]) -> int:
    placed = 0
    while placed < wish.count and any(room.take(wish) for room in rooms):
        placed += 1
    return placed


def shortages(wishes: Sequence[Wish], nodes: Sequence[Node]) -> list[str]:
    """What finds no room on empty nodes, and why; empty where everything fits.

    Processes are put on the first node that has room, those that need GPUs and the largest first.
    """
    rooms = [_Room(node) for node in nodes]
    found = []
    for wish in sorted(wishes, key=_hardest_first):
        placed = _place(wish, rooms)
        if placed < wish.count:
            found.append(_why_not(wish, placed, nodes))
    return found


def _hardest_first(wish: Wish) -> tuple[float, int, float]:
    return (
        -wish.resources.get("GPU", 0.0),
        -len(wish.labels) - len(wish.resources),
        -wish.resources.get("CPU", 0.0),
    )


def _why_not(wish: Wish, placed: int, nodes: Sequence[Node]) -> str:
    fitting = [node for node in nodes if matches(wish.labels, node.labels)]
    if not fitting:
        there = sorted(
            {
                f"{name}={node.labels[name]}"
                for node in nodes
                for name in wish.labels
                if name in node.labels
            }
        )
        return f"{wish}: no node has such labels (there are: {', '.join(there) or 'none of them'})"
    if placed == 0:
        largest = ", ".join(
            f"{max(node.resources.get(name, 0.0) for node in fitting):g} {name}"
            for name, value in wish.resources.items()
            if value
        )
        return f"{wish}: no node has room for one; of each kind the largest has {largest}"
    text = f"{wish}: there is room for {placed}"
    gpus = wish.resources.get("GPU", 0.0)
    if 0 < gpus < 1:
        share = int(1 / gpus + _EPSILON)
        left = 1 - share * gpus
        text += f" ({share} share a GPU" + (
            f", and {left:.2g} of each GPU stays empty)" if left > _EPSILON else ")"
        )
    return text
