"""What Prometheus would read: the endpoint of a node's metrics agent."""

import re
import urllib.request
from urllib.parse import urlparse

import pytest
import ray
import tiny
from doubles import load_fake_teachers, request
from pool_help import FOUR, statuses, until

from kd_ray.cluster.pool import PoolSource, attach, service
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.trainer import run_training
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def scraped():
    [node] = ray.nodes()
    address = urlparse(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
    assert address.hostname is not None
    try:
        with urllib.request.urlopen(address.geturl(), timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        # The agent is busy.
        return ""


def series(text, name, **labels):
    """The sum over all series of this name and these labels; None: there are none."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}{{(.*)}} (\S+)", line)
        if match is None:
            continue
        has = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
        if all(has.get(key) == value for key, value in labels.items()):
            found.append(float(match[2]))
    return sum(found) if found else None


def test_a_pool_and_a_training_are_seen(tmp_path):
    config = PoolConfig.model_validate(
        {
            "command": "pool", "name": "seen", "teachers": {"list": "unused"}, "lease_s": 30,
            "hosts": {"hosts": 2, "cpus_per_host": 0.25, "cache_mib": 16},
        }
    )  # fmt: skip
    service.up(PoolSpec(config, tuple(map(str, FOUR)), load=load_fake_teachers))
    attachment = attach(PoolSection(type="pool", name="seen"), job="looker")
    try:
        source = PoolSource(attachment.address, job="looker")
        for seed in (1, 2, 3, 1):
            source.ask(request(seed)).result(30)
        source.close()
        tiny.make_corpus(tmp_path)
        run_training(tiny.train_config("exported"), tmp_path)

        text, seen = "", []

        def complete():
            nonlocal text
            text = scraped()
            shown = ("ray_kd_ray_req", "ray_kd_ray_pool")
            seen[:] = [line for line in text.splitlines() if line.startswith(shown)]
            return [
                series(text, "ray_kd_ray_requests_total", pool="seen", job="looker"),
                series(text, "ray_kd_ray_pool_hosts", pool="seen", state="up"),
                series(text, "ray_kd_ray_pool_teachers", pool="seen"),
                series(text, "ray_kd_ray_pool_jobs", pool="seen"),
            ] == [8, 2, 4, 1]

        # Hosts tell every 5 s, Ray every 10 s: of each process, hosts and manager, on its own.
        until(complete, 120)
        hosts = {"pool": "seen"}
        found = statuses("seen")
        costs = [status.costs["looker"] for status in found]
        rows = sum(cost.rows for cost in costs)
        assert series(text, "ray_kd_ray_rows_total", **hosts, job="looker") == rows
        known = sum(cost.known_rows for cost in costs)
        assert known > 0
        assert series(text, "ray_kd_ray_known_rows_total", **hosts) == known
        assert series(text, "ray_kd_ray_answer_seconds_count", **hosts) == 8
        assert series(text, "ray_kd_ray_answer_seconds_bucket", **hosts, le="+Inf") == 8
        passes = sum(status.batches.passes for status in found)
        assert series(text, "ray_kd_ray_passes_total", **hosts) == passes
        assert series(text, "ray_kd_ray_batch_utterances_count", **hosts) == passes
        assert series(text, "ray_kd_ray_open_requests", **hosts) == 0
        until(lambda: series(scraped(), "ray_kd_ray_train_updates_total", job="exported") == 6)
        # Ray's own, which the dashboard shows beside.
        assert series(text, "ray_object_store_memory") is not None
        assert series(text, "ray_node_mem_used") is not None
    finally:
        attachment.close()
        service.down("seen", force=True)
