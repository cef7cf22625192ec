"""What goes from hosts, from nodes and to the student, for any number of teachers and hosts."""

from typing import Any

from kd_ray.bench.pool.fleet import Fleet
from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.requests import check_answers, make_requests
from kd_ray.bench.pool.setup import Setup
from kd_ray.cluster.pool import PoolSource
from kd_ray.cluster.pool.address import arrays_bytes
from kd_ray.core.contracts import Score
from kd_ray.teachers.policies import deal

GOAL = Goal("bytes of a target position, most over fewest teachers and hosts", 1.0)
_HOSTS_PER_NODE = 2


def measure_bytes(setup: Setup) -> dict[str, Any]:
    """A row for each number of teachers and of hosts."""
    part = setup.config.bytes
    (request,) = make_requests(setup.config.batch, 1)
    rows = [
        _row(setup.fleet, request, teachers, hosts)
        for teachers in part.teachers
        for hosts in part.hosts
        if hosts <= teachers
    ]
    sizes = [row["target_bytes_per_position"] for row in rows]
    return {"goals": [GOAL.judge(max(sizes) / min(sizes))], "rows": rows}


def _row(fleet: Fleet, request: Score, teachers: int, hosts: int) -> dict[str, Any]:
    """Two hosts are said to be of one node, so that nodes have something to merge."""
    nodes = [f"node-{number // _HOSTS_PER_NODE}" for number in range(hosts)]
    source = PoolSource(fleet.view(deal(teachers, hosts), nodes))
    try:
        signal = source.ask(request).result(60.0)
        edges = dict(source.edges)
    finally:
        source.close()
    (expected,) = fleet.expected(range(teachers), [request])
    check_answers([(signal, expected)])
    assert signal.tokens is not None, "tokens were asked for"
    positions = int(signal.tokens.lengths.sum())
    target = arrays_bytes(signal.tokens)
    labels = arrays_bytes(signal.labels)
    per_teacher = edges["student"] - target - labels
    return {
        "teachers": teachers,
        "hosts": hosts,
        "target_bytes_per_position": target / positions,
        "label_bytes_per_utterance": labels / len(request.utterance_ids),
        "table_bytes_per_teacher_and_utterance": per_teacher
        / (teachers * len(request.utterance_ids)),
        "student_bytes": edges["student"],
        "host_bytes_each": edges["hosts"] / hosts,
        "node_bytes": edges["nodes"],
    }
