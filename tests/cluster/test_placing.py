"""What a configuration asks of a cluster, on real nodes: labels, resources, versions."""

import json
import os
import secrets
import subprocess
import sys

import pytest
import ray
from pool_help import FOUR, start

from kd_ray.cluster.compare import compare, look_at, my_versions
from kd_ray.cluster.pool import PoolStartError
from kd_ray.cluster.room import Wish

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_a_cluster_like_this_place_has_no_problem_but_room(local_ray):
    facts = look_at(ray.get_runtime_context().gcs_address)
    (node,) = facts.nodes
    assert node.resources["CPU"] == 4
    assert facts.versions == {node.name: my_versions()}
    assert not facts.may_grow
    assert ray.is_initialized()
    fits = compare(my_versions(), facts, [Wish("teacher hosts", 4, {"CPU": 1})])
    assert fits.problems == []
    found = compare(
        {**my_versions(), "torch": "0.1"},
        facts,
        [Wish("workers", 5, {"CPU": 1}), Wish("teacher hosts", 1, {}, {"role": "teachers"})],
    )
    assert len(found.problems) == 2
    assert any("room for 4" in text for text in found.problems)
    assert any("no node has such labels" in text for text in found.problems)
    assert any("torch is 0.1 here" in text for text in found.notes)


def test_a_host_that_no_node_takes_says_what_it_asked_for(local_ray):
    with pytest.raises(
        PoolStartError, match=r"1 teachers, on nodes with role=teachers.*0 teachers"
    ):
        start(
            FOUR[:1], resources_per_host={"teachers": 1.0}, label_selector={"role": "teachers"},
            start_timeout_s=1,
        )  # fmt: skip


SCRIPT = """
import json
import ray
from ray.cluster_utils import Cluster
from kd_ray.cluster.compare import look_at, my_versions
from kd_ray.cluster.room import Wish, shortages
from kd_ray.config.training import Workers
from doubles import request
from pool_help import FOUR, attach, start
from ray.util.placement_group import placement_group

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 2, "labels": {"role": "students"}, "resources": {"students": 2},
    "include_dashboard": False, "object_store_memory": 100 << 20})
cluster.add_node(num_cpus=2, labels={"role": "teachers"}, resources={"teachers": 2},
                 object_store_memory=100 << 20)
ray.init(address=cluster.address, log_to_driver=False)
nodes = {node["Labels"]["role"]: node["NodeID"] for node in ray.nodes()}
answer = {}
for name, options in {
    "labels": {"label_selector": {"role": "teachers"}},
    "resources": {"resources_per_host": {"teachers": 1}},
    "students": {"label_selector": {"role": "!teachers"}},
}.items():
    with start(FOUR[:2], hosts=2, **options) as pool:
        answer[name] = sorted({host.node for host in pool.address.hosts})
        source, _ = attach(pool)
        answer[name + " answered"] = len(source.ask(request(1)).result(30).answered)
        source.close()
# Workers of a group: a placement group with the same resources and selectors.
workers = Workers(
    count=2, label_selector={"role": "students"}, resources_per_worker={"students": 1})
group = placement_group(
    [{"CPU": workers.cpus, **workers.resources_per_worker}] * workers.count,
    bundle_label_selector=[workers.label_selector] * workers.count)
ray.get(group.ready(), timeout=240)
places = ray.util.placement_group_table(group)["bundles_to_node_id"]
answer["workers"] = sorted(set(places.values()))
facts = look_at(cluster.address)
answer["fits"] = shortages([Wish("h", 2, {"CPU": 1}, {"role": "teachers"})], facts.nodes)
answer["short"] = shortages([Wish("h", 3, {"teachers": 1})], facts.nodes)
answer["versions"] = [dict(each) == dict(my_versions()) for each in facts.versions.values()]
print(json.dumps({"nodes": nodes, **answer}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_hosts_and_workers_live_on_the_nodes_that_they_are_sent_to(tmp_path):
    """Two nodes on this machine, in a process of its own beside the session's Ray."""
    here = os.path.dirname(os.path.abspath(__file__))
    tests = os.path.dirname(here)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([here, tests, os.path.dirname(tests)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # Nodes and driver alike, whatever lies in the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    nodes = answer["nodes"]
    assert answer["labels"] == [nodes["teachers"]]
    assert answer["resources"] == [nodes["teachers"]]
    assert answer["students"] == [nodes["students"]]
    assert answer["workers"] == [nodes["students"]]
    assert [answer[f"{name} answered"] for name in ("labels", "resources", "students")] == [2] * 3
    assert answer["fits"] == []
    assert "room for 2" in answer["short"][0]
    assert answer["versions"] == [True, True]
