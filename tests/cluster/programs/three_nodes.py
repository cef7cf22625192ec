"""A cluster of three nodes on this machine, of two kinds, that loses nodes and gets others.

The head and one more node are for students, the third one is for teachers. Arguments: the root,
which holds a corpus and teachers, and what is to be done there (`COMMANDS`); writes what happened
as one line of JSON.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
import tiny
from gated_work import Gate, gated_work, load_and_say_where
from pool_help import until
from ray.cluster_utils import Cluster
from search_help import search_config, write_base

import kd_ray.commands.infer_teachers as infer_command
import kd_ray.commands.search as search_command
from kd_ray.cluster import trainer
from kd_ray.cluster.pool import PoolAddress, TeacherPool, service
from kd_ray.cluster.trainer import run_training
from kd_ray.config.commands import InferTeachersConfig
from kd_ray.config.load import check
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.report.search import read_search

MEMORY = 100 << 20
TEACHERS, STUDENTS = {"kd-ray-role": "teachers"}, {"kd-ray-role": "students"}


class ThreeNodes:
    """The cluster, and this process connected to it."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**_kind(STUDENTS, students=1), "include_dashboard": False},
        )
        ray.init(address=self.cluster.address, log_to_driver=False)
        self.teachers = self.add_teachers()
        self.students = self.add_students()
        self.cluster.wait_for_nodes()

    def add_teachers(self) -> Any:
        """A node for two hosts."""
        return self.cluster.add_node(**_kind(TEACHERS, teachers=2))

    def add_students(self) -> Any:
        """A node for one worker."""
        return self.cluster.add_node(**_kind(STUDENTS, students=1))

    def lose(self, node: Any) -> None:
        """As a spot machine goes: without a word."""
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End it all."""
        ray.shutdown()
        self.cluster.shutdown()


def _kind(labels: dict[str, str], **resources: int) -> dict[str, Any]:
    return {"num_cpus": 2, "labels": labels, "resources": resources, "object_store_memory": MEMORY}


def train(nodes: ThreeNodes, root: Path) -> dict[str, Any]:
    """A distillation with 2, then 1, then 2 workers; in between all its teachers are lost."""
    config = tiny.distill_config(
        "nodes", "teachers.txt", **tiny.PLAIN_SGD,
        training__epochs=6,
        training__checkpoint_every_updates=2,
        teachers__source={
            "type": "pool", "hosts": 2, "cpus_per_host": 0.5, "recover_s": 240, "max_deaths": 10,
            "quorum": 1.0,
            "resources_per_host": {"teachers": 1}, "label_selector": TEACHERS,
        },
        workers={
            "count": {"min": 1, "max": 2, "look_every_s": 2}, "max_restarts": 4,
            "resources_per_worker": {"students": 1}, "label_selector": STUDENTS,
        },
    )  # fmt: skip
    run, gate = RunFolder(root, config.name), Gate(root)
    pools: list[TeacherPool] = []

    def events(kind: str) -> list[dict[str, Any]]:
        path = run.path / "events.jsonl"
        found = read_json_lines(path) if path.exists() else []
        return [event for event in found if event["kind"] == kind]

    def updates() -> int:
        path = run.path / "metrics.jsonl"
        lines = read_json_lines(path) if path.exists() else []
        return max((line["update"] for line in lines if line["kind"] == "train"), default=0)

    def sizes() -> list[int]:
        return [event["now"] for event in events("worker_count")]

    def go_on_to(update: int) -> None:
        gate.open_until(update)
        until(lambda: updates() >= update, within_s=200)

    def change_nodes() -> dict[str, Any]:
        go_on_to(5)
        found: dict[str, Any] = {"first": [host.node for host in pools[0].address.hosts]}
        nodes.lose(nodes.students)
        until(lambda: sizes()[-1:] == [1], within_s=150)
        go_on_to(9)
        nodes.lose(nodes.teachers)
        until(lambda: len(events("host_died")) >= 2, within_s=60)
        new = nodes.add_teachers()
        go_on_to(13)
        arrivals = pools[0]._keeper.arrivals.values()
        found["later"] = [arrival.node for arrival in arrivals if arrival is not None]
        found["new_teachers"] = new.node_id
        found["new_students"] = nodes.add_students().node_id
        until(lambda: sizes()[-1:] == [2], within_s=150)
        return found

    start = TeacherPool.start.__func__  # type: ignore[attr-defined]

    def remember(cls: type[TeacherPool], *arguments: Any, **options: Any) -> TeacherPool:
        pools.append(start(cls, *arguments, **options))
        return pools[-1]

    TeacherPool.start = classmethod(remember)  # type: ignore[method-assign,assignment]
    trainer._work_in_group = gated_work
    old = {"old_teachers": nodes.teachers.node_id, "old_students": nodes.students.node_id}
    # Nodes are started by the main thread, which receives the signals.
    training = InBackground(lambda: run_training(config, root))
    try:
        found = change_nodes()
    finally:
        gate.open()
    summary = training.result()
    groups = [
        {key: event[key] for key in ("before", "now", "reason", "nodes")}
        for event in events("worker_count")
    ]
    kinds = [event["kind"] for event in read_json_lines(run.path / "events.jsonl")]
    return {**old, **found, "summary": summary, "groups": groups, "kinds": kinds}


def infer(nodes: ThreeNodes, root: Path) -> dict[str, Any]:
    """A target store, by actors on the nodes for teachers."""
    config = check(
        {
            "command": "infer-teachers", "store": "stores/nodes", "teachers": "teachers.txt",
            "splits": {"train": "data/train.parquet"}, "tokens": "data/tokens.json",
            "shard_utterances": 8, "actors": 2, "cpus_per_actor": 0.5,
            "resources_per_actor": {"teachers": 1}, "label_selector": TEACHERS,
        },
        "three_nodes",
    )  # fmt: skip
    assert isinstance(config, InferTeachersConfig)
    infer_command.load_teachers = partial(load_and_say_where, root / "where")
    summary = infer_command.infer_teachers(config, root)
    return {
        "rows": sum(record.rows for record in summary.records),
        "nodes": [path.read_text() for path in (root / "where").iterdir()],
    }


def search(nodes: ThreeNodes, root: Path) -> dict[str, Any]:
    """Two trials side by side on the nodes for students, with one pool on the others."""
    workers = {"resources_per_worker": {"students": 1}, "label_selector": STUDENTS}
    base = write_base(root, "placed.yaml", workers=workers)
    config = search_config(
        "searched", base,
        space={"distillation.alpha": {"type": "choice", "values": [0.3, 0.9]}},
        overrides={"training.epochs": 2},
        pool={
            "hosts": 1, "cpus_per_host": 0.5, "cache_mib": 16,
            "resources_per_host": {"teachers": 1}, "label_selector": TEACHERS,
        },
    )  # fmt: skip
    hosts: list[str] = []
    up = service.up

    def remember(*arguments: Any, **options: Any) -> PoolAddress:
        address = up(*arguments, **options)
        hosts.extend(host.node for host in address.hosts)
        return address

    service.up = remember
    try:
        content = search_command.search(config, root)
    finally:
        service.up = up
    trials = read_search(root, "searched").trials
    workers_on = [
        event["node_id"]
        for trial in trials
        for event in read_json_lines(trial.folder / "events.jsonl")
        if event["kind"] == "worker_started"
    ]
    return {
        "states": [trial.state for trial in trials],
        "winner": content["verdict"]["winner"],
        "hosts": hosts,
        "workers_on": workers_on,
        "teachers": nodes.teachers.node_id,
    }


class InBackground:
    """A call in a thread."""

    def __init__(self, call: Callable[[], dict[str, Any]]) -> None:
        self._answer: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> dict[str, Any]:
        """What the call returned."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer


COMMANDS: dict[str, Callable[[ThreeNodes, Path], dict[str, Any]]] = {
    "infer": infer,
    "search": search,
    "train": train,
}


def main(root: Path, commands: list[str]) -> dict[str, Any]:
    # Room that is gone is noticed by groups that do not start.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
    nodes = ThreeNodes()
    try:
        return {command: COMMANDS[command](nodes, root) for command in commands}
    finally:
        nodes.close()


if __name__ == "__main__":
    # Ray writes to the standard output when it starts.
    answer, sys.stdout = sys.stdout, sys.stderr
    answer.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])) + "\n")
