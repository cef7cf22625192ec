"""A cluster against the place where a run was written, as plain data."""

import pytest

from kd_ray.cluster.compare import ClusterFacts, compare, my_versions
from kd_ray.cluster.room import Node, Wish
from kd_ray.cluster.runtime import join_as_it_is, require_cluster

HERE = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.14.1",
    "torchaudio": "2.11.0",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "pydantic": "2.14.0",
    "kd-ray": "0.1.0",
}


def cluster(*versions, labels=None, **resources):
    names = [f"node-{index}" for index in range(len(versions))]
    nodes = tuple(Node(name, resources or {"CPU": 4.0}, labels or {}) for name in names)
    return ClusterFacts(nodes, dict(zip(names, versions, strict=True)))


def test_equal_versions_and_room_make_no_problem():
    found = compare(HERE, cluster(HERE, HERE), [Wish("workers", 8, {"CPU": 1})])
    assert found.problems == []
    assert found.notes == [
        "the cluster has 2 nodes, 8 CPUs, 0 GPUs; the run asks for 8 workers with 1 CPU each"
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ray": "2.61.0"}, "ray is 2.60.0 here and 2.61.0 on node-1"),
        ({"python": "3.11.13"}, "python is 3.11.7 here and 3.11.13 on node-1"),
        ({"torch": None}, "torch is 2.14.1 here and not installed on node-1"),
        ({"numpy": "1.26.4"}, "arrays do not travel"),
    ],
)
def test_what_cannot_work_together_is_a_problem(changes, text):
    found = compare(HERE, cluster(HERE, {**HERE, **changes}), [])
    assert len(found.problems) == 1
    assert text in found.problems[0]
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"torch": "2.13.0"}, "torch is 2.14.1 here and 2.13.0 on node-1"),
        ({"numpy": "2.3.0"}, "numpy is 2.4.6 here and 2.3.0 on node-1"),
        ({"kd-ray": None}, "brings the code of its working directory"),
    ],
)
def test_what_may_differ_is_a_note(changes, text):
    found = compare(HERE, cluster(HERE, {**HERE, **changes}), [])
    assert found.problems == []
    assert text in found.notes[0]


def test_nodes_that_are_alike_share_a_line():
    old = {**HERE, "torch": "2.13.0"}
    found = compare(HERE, cluster(*[old] * 7), [])
    assert "on node-0, node-1, node-2, node-3, node-4 and 2 more" in found.notes[0]


def test_a_silent_node_is_named():
    found = compare(HERE, cluster(HERE, None), [])
    assert found.problems == []
    assert "node-1 did not say in time" in found.notes[0]


def test_a_shortage_is_a_problem_unless_the_cluster_may_grow():
    wishes = [Wish("teacher hosts", 2, {"GPU": 1})]
    assert "no node has room for one" in compare(HERE, cluster(HERE), wishes).problems[0]
    grows = compare(HERE, cluster(HERE, labels={"ray.io/node-group": "head"}), wishes)
    assert grows.problems == []
    assert "autoscaler would have to start nodes" in grows.notes[0]


def test_the_versions_here_are_those_installed():
    mine = my_versions()
    assert mine["ray"] is not None
    assert mine["python"] is not None
    assert mine.keys() == HERE.keys()


def test_a_dashboard_is_not_a_cluster_s_address():
    with pytest.raises(ValueError, match="submit the check"):
        join_as_it_is("http://127.0.0.1:8265")


@pytest.mark.parametrize("address", [None, "", "local"])
def test_a_private_ray_has_no_special_nodes(address, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"workers\.label_selector: .*submit this as a job"):
        require_cluster("workers.label_selector")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    require_cluster("workers.label_selector")
