"""What a status shows, and what of it is in the JSON."""

import io
import json

from rich.console import Console

from kd_ray.cluster.pool.jobs import JobView
from kd_ray.cluster.pool.keeper import Restart
from kd_ray.cluster.pool.nodes import NodeView, Seat
from kd_ray.cluster.pool.status import HostView, PoolStatus
from kd_ray.commands.pool_status import as_plain, errors_of, show
from kd_ray.teachers.batching.statistics import BatchStatistics, JobStatistics
from kd_ray.teachers.cache import CacheStatistics, Lookups
from kd_ray.teachers.costs import JobCost
from kd_ray.teachers.host import HostStatus
from kd_ray.teachers.residency import ResidencyStatus


def cost(*answer_s, **counts):
    made = JobCost(requests=len(answer_s), **counts)
    for seconds in answer_s:
        made.answers.record(seconds)
    return made


def host(number, status, **changes):
    seat = Seat("gpu-1", "NVIDIA H200", 2.0, 0.5)
    fields = {"node": "abcdefghij", "pid": 100 + number, "seat": seat, "restart": None, **changes}
    return HostView(name=f"kd_ray-pool-p-host-{number}", status=status, **fields)


def status_of(costs, **changes):
    fields = {
        "teachers": (0, 1), "quarantined": {}, "open_requests": 2, "queued_utterances": 7,
        "busy_s": {0: 1.5}, "batches": BatchStatistics(passes=3, units=40, sizes={4: 1, 4 + 14: 2}),
        "jobs": {name: JobStatistics(units=20, passes=2) for name in costs}, "costs": costs,
        "errors": {"Expired": 2}, "cache": CacheStatistics(5, 2**20, 2**23, Lookups(3, 1)),
        "stored": Lookups(1, 3), "held": {"a": 11, "b": 22},
        "residency": ResidencyStatus(2**20, 10, (0,), {}, 9, 8, 1.0, {0: 9}),
    }  # fmt: skip
    return HostStatus(**(fields | changes))


def a_pool():
    first = status_of({"a": cost(0.010, 0.020, rows=8, teacher_s=1.5, loads=3.0, bytes_in=2**20)})
    second = status_of(
        {"a": cost(0.040, rows=4, bytes_out=2**21), "gone": cost(0.5, rows=2)},
        errors={"Expired": 1, "quarantined": 1}, quarantined={3: "NaN"},
    )  # fmt: skip
    return PoolStatus(
        name="p", state="up", up_s=3700.0, protocol=5, package="0.1.0", teachers=4,
        nodes=(NodeView("abcdefghij", "gpu-1", True, 16.0, 2.0, "H200", 3, 1.5),),
        hosts=(
            host(0, first),
            host(1, second, restart=Restart(1e9, "host-1 died: killed")),
            host(2, None),
        ),
        jobs=(JobView("a", 2.0, 61.0, 0.5),),
        deaths=1, respawns=1, version=3,
        events=({"time": 1e9, "kind": "host_died", "host": "host-1"},),
    )  # fmt: skip


def test_everything_is_in_the_json():
    plain = json.loads(json.dumps(as_plain(a_pool())))
    assert (plain["protocol"], plain["package"]) == (5, "0.1.0")
    assert plain["errors"] == {"Expired": 3, "quarantined": 1}
    assert plain["nodes"][0]["gpu_type"] == "H200"
    first, second, silent = plain["hosts"]
    assert silent["status"] is None
    assert first["seat"]["gpus"] == 0.5
    assert first["status"]["batches"]["size"] == {"p50": 18, "p95": 18, "p99": 18}
    assert first["status"]["answer_s"]["max"] == 0.020
    assert 0.009 < first["status"]["answer_s"]["p50"] < 0.012
    assert second["restart"] == {"at_s": 1e9, "reason": "host-1 died: killed"}
    assert second["status"]["costs"]["a"]["answers"]["mean"] == 0.040
    job, gone = plain["by_job"]["a"], plain["by_job"]["gone"]
    assert (job["rows"], job["requests"], job["teacher_s"], job["loads"]) == (12, 3, 1.5, 3.0)
    assert (job["bytes_in"], job["bytes_out"]) == (2**20, 2**21)
    assert job["answer_s"]["max"] == 0.040
    assert job["utterances"] == 40
    assert job["per_row"]["teacher_s"] == 1.5 / 12
    assert job["wait_s"]["p50"] is None
    assert gone["rows"] == 2


def test_everything_is_in_the_tables():
    console = Console(file=io.StringIO(), width=300)
    show(a_pool(), console)
    text = console.file.getvalue()
    for expected in (
        "pool p: up for 1 h 1 min, kd_ray 0.1.0, protocol 5, change 3; 4 teachers, 3 hosts (1 died",
        "2 H200", "NVIDIA H200", "host-1 died: killed", "2 Expired", "1 Expired, 1 quarantined",
        "no answer", "1 min 1 s", "host_died", "answer_p50", "1.0 of 8 MiB", "75 %", "25 %", " 33 ",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_pool_that_sleeps_has_no_hosts_to_show():
    asleep = PoolStatus("p", "asleep", 5.0, 5, "0.1.0", 4, (), (), (), 0, 0, ())
    console = Console(file=io.StringIO(), width=200)
    show(asleep, console)
    assert "no jobs attached" in console.file.getvalue()
    assert errors_of(asleep) == {}
    assert as_plain(asleep)["by_job"] == {}
