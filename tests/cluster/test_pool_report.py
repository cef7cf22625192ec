"""`kd-ray pool report` on a running pool, and what a pool's status and costs say."""

import json

import pytest
import ray
import tiny

from kd_ray.cluster.pool import service
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.pool import pool
from kd_ray.commands.pool_report import pool_report
from kd_ray.commands.pool_status import as_plain
from kd_ray.config.load import check_as
from kd_ray.config.pool import PoolConfig
from kd_ray.core.contracts import PROTOCOL_VERSION
from kd_ray.evaluation.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def config(name, **changes):
    content = {
        "command": "pool",
        "name": "trusted",
        "teachers": {"list": "teachers.txt"},
        "hosts": {"hosts": 2, "cpus_per_host": 0.25, "cache_mib": 16},
        "lease_s": 10,
        "report": {
            "name": name,
            "split": "valid",
            "manifest": "data/valid.parquet",
            "tokens": "data/tokens.json",
            "batch_size": 2,
            "in_flight": 2,
            "resamples": 50,
            **changes,
        },
    }
    return check_as(PoolConfig, content, "test")


@pytest.fixture(scope="module")
def trusted(local_ray, tiny_root):
    pool(config("none"), tiny_root, "up", as_json=True)
    yield "trusted"
    service.down("trusted", force=True)


def done():
    return as_plain(service.status("trusted"))


def test_a_pool_says_who_is_trusted_where_as_its_teachers_here_do(trusted, tiny_root):
    mine = pool_report(config("in-pool"), tiny_root)
    here = pool_report(config("here", source="local"), tiny_root)
    assert mine.table.teachers == here.table.teachers
    assert mine.table.error_percent == pytest.approx(here.table.error_percent)
    assert mine.groups.keys() == here.groups.keys()
    assert mine.asked.pool == "pool trusted"
    page = (tiny_root / "runs" / "in-pool" / "report.html").read_text()
    assert "By duration" in page
    assert service.status(trusted).jobs == ()

    # Nothing but trust went out: some fifty bytes for each utterance and teacher.
    cost = done()["by_job"]["report in-pool"]
    assert cost["rows"] == 6 * 3
    assert 0 < cost["bytes_out"] / cost["rows"] < 60
    assert cost["answer_s"]["p99"] > 0

    # A second report computes nothing, and one with the other measure does not either.
    again = pool_report(config("again", trust="teacher_forced"), tiny_root)
    assert again.measure == "teacher-forced error rate"
    cost = done()["by_job"]["report again"]
    assert (cost["known_rows"], cost["teacher_s"]) == (cost["rows"], 0.0)


def test_a_training_on_the_pool_says_what_its_teachers_cost(trusted, tiny_root):
    distill = tiny.distill_config(
        "costly", "teachers.txt", **tiny.PLAIN_SGD,
        teachers__source={"type": "pool", "name": "trusted"}, training__epochs=2,
    )  # fmt: skip
    run_training(distill, tiny_root)
    costs = RunFolder(tiny_root, "costly").summary()["costs"]
    assert costs["utterances"] == 2 * 24
    assert costs["computed_rows"] + costs["remembered_rows"] == 2 * 24 * 3
    # The second epoch finds the first one's rows.
    assert costs["remembered_rows"] >= 24 * 3
    assert costs["bytes_sent"] > costs["utterances"] * 2 * 16_000 * 0.3
    assert costs["per_position"]["bytes_student"] > 0
    assert costs["bytes_hosts"] > 0
    assert costs["teacher_s"] > 0
    assert 0 <= costs["wait_share"] < 1
    job = done()["by_job"]["costly"]
    assert job["teacher_s"] == pytest.approx(costs["teacher_s"])
    assert job["rows"] == costs["computed_rows"] + costs["remembered_rows"]
    assert job["bytes_out"] == costs["bytes_hosts"]


def test_the_status_says_where_hosts_sit_and_how_they_are(trusted):
    plain = json.loads(json.dumps(done()))
    assert plain["protocol"] == PROTOCOL_VERSION
    [node] = plain["nodes"]
    assert node["node"] == ray.get_runtime_context().get_node_id()
    assert node["alive"]
    assert (node["hosts"], node["cpus"], node["gpus_of_hosts"]) == (2, 4.0, 0.0)
    for host in plain["hosts"]:
        assert host["seat"]["device"] == "cpu"
        assert host["seat"]["cpus"] == 0.25
        assert host["restart"] is None
        assert host["status"]["errors"] == {}
        assert host["status"]["batches"]["size"]["p50"] >= 1
        assert host["status"]["answer_s"]["p50"] > 0
    assert plain["errors"] == {}
