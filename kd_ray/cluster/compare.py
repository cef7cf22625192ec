"""Whether a cluster is like the place where a run was written: versions, and room for what it asks.

Facts are gathered by Ray, the comparison is over plain data.
"""

import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_ray.cluster.room import GROUP_LABEL, Node, Wish, shortages
from kd_ray.cluster.runtime import join_as_it_is

Versions = Mapping[str, str | None]
"""Package to version, None where it is not installed; `python` too."""

PACKAGES = ("ray", "torch", "torchaudio", "numpy", "pyarrow", "pydantic", "kd-ray")
_MUST_AGREE = ("python", "ray")
_MUST_BE_THERE = ("torch", "torchaudio", "numpy", "pyarrow", "pydantic")
_ANSWER_S = 60.0


@dataclass(frozen=True)
class ClusterFacts:
    """What a cluster says about itself."""

    nodes: tuple[Node, ...]
    versions: Mapping[str, Versions | None]
    """By name of the node; None: it did not answer in time."""

    @property
    def may_grow(self) -> bool:
        """Whether `ray up` or KubeRay started nodes, and may start more."""
        return any(GROUP_LABEL in node.labels for node in self.nodes)


@dataclass
class Comparison:
    """What stands in the way of a run, and what one should know."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look_at(address: str) -> ClusterFacts:
    """Ask every node of a running cluster what it has and which packages are installed there.

    Raises:
        ValueError: the cluster cannot be joined.
    """
    with join_as_it_is(address):
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        names = _names(alive)
        look = ray.remote(_node_versions())
        asked = {
            name: look.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(PACKAGES)
            for name, node in zip(names, alive, strict=True)
        }
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
        answers = {name: _answer(each) if each in ready else None for name, each in asked.items()}
        nodes = tuple(
            Node(name, dict(node["Resources"]), dict(node["Labels"]))
            for name, node in zip(names, alive, strict=True)
        )
        return ClusterFacts(nodes, answers)


def compare(mine: Versions, cluster: ClusterFacts, wishes: Sequence[Wish]) -> Comparison:
    """Set a cluster against the versions here and against what a run asks for."""
    result = Comparison()
    _compare_versions(mine, cluster, result)
    short = shortages(wishes, cluster.nodes)
    if cluster.may_grow:
        result.notes += [f"{text}; its autoscaler would have to start nodes" for text in short]
    else:
        result.problems += short
    if not short:
        # Those that may be more are counted once more, with all of them.
        largest = [replace(wish, count=wish.most or wish.count, most=None) for wish in wishes]
        result.notes += [
            f"{text}; the run can do with fewer" for text in shortages(largest, cluster.nodes)
        ]
    total: dict[str, float] = defaultdict(float)
    for node in cluster.nodes:
        for kind in ("CPU", "GPU"):
            total[kind] += node.resources.get(kind, 0.0)
    count = len(cluster.nodes)
    result.notes.append(
        f"the cluster has {count} node{'s' * (count != 1)}, {total['CPU']:g} CPUs, "
        f"{total['GPU']:g} GPUs; the run asks for {'; '.join(map(str, wishes)) or 'none of them'}"
    )
    return result


def my_versions() -> Versions:
    """Of this process."""
    return dict(_node_versions()(PACKAGES))


def _node_versions() -> Any:
    """A function that travels by value: nodes need no kd_ray to run it."""

    def versions(packages: Sequence[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {"python": platform.python_version()}
        for package in packages:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                found[package] = None
        return found

    return versions


def _answer(reference: Any) -> Versions | None:
    try:
        versions: Versions = ray.get(reference)
    except ray.exceptions.RayError:
        return None
    return versions


def _names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Host names, with the beginning of the node's id where two are alike."""
    hosts = [str(node["NodeManagerHostname"]) for node in nodes]
    return [
        host if hosts.count(host) == 1 else f"{host} ({node['NodeID'][:6]})"
        for host, node in zip(hosts, nodes, strict=True)
    ]


def _compare_versions(mine: Versions, cluster: ClusterFacts, result: Comparison) -> None:
    silent = [name for name, versions in cluster.versions.items() if versions is None]
    if silent:
        result.notes.append(f"{_listed(silent)} did not say in time what is installed there")
    known = {name: each for name, each in cluster.versions.items() if each is not None}
    for package in ("python", *PACKAGES):
        here = mine.get(package)
        others: dict[str | None, list[str]] = defaultdict(list)
        for name, versions in known.items():
            if versions.get(package) != here:
                others[versions.get(package)].append(name)
        for there, names in others.items():
            _tell(package, here, there, _listed(names), result)


def _tell(package: str, here: str | None, there: str | None, where: str, into: Comparison) -> None:
    differs = (
        f"{package} is {here or 'not installed'} here and {there or 'not installed'} on {where}"
    )
    if package in _MUST_AGREE:
        why = "Ray joins machines of one version of Ray and Python only, to the last digit"
        into.problems.append(f"{differs}; {why}")
    elif package == "kd-ray":
        into.notes.append(f"{differs}; a job brings the code of its working directory")
    elif there is None and package in _MUST_BE_THERE:
        into.problems.append(f"{differs}; every node needs what pyproject.toml names")
    elif package == "numpy" and _major(here) != _major(there):
        into.problems.append(f"{differs}; arrays do not travel between these")
    else:
        into.notes.append(f"{differs}; results may differ in their last digits")


def _major(version: str | None) -> str:
    return (version or "").split(".")[0]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
