"""A number of workers that may change: what may be written, what Ray is asked for, what is told."""

import pytest
import tiny
from yaml_files import CHECKOUT

from kd_ray.cluster import group_size
from kd_ray.cluster.compare import ClusterFacts, compare
from kd_ray.cluster.group_size import number_of, record_group, why
from kd_ray.cluster.room import Node
from kd_ray.commands.checking.cluster import notes_of_changes, wishes_of
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.training import Workers
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.students.collective import Alone

RANGE = {"min": 1, "max": 3}


def workers(**content):
    return check_as(Workers, content, "test")


def test_a_range_is_read_as_the_fewest_and_the_most():
    some = workers(count=RANGE)
    assert (some.fewest, some.most, some.grouped) == (1, 3, True)
    fixed = workers(count=2)
    assert (fixed.fewest, fixed.most, fixed.grouped) == (2, 2, True)
    assert not workers().grouped
    assert check_as(Workers, some.model_dump(mode="json"), "test") == some
    assert workers().model_dump()["count"] == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"count": {"min": 2, "max": 2}}, "for a fixed number write count: 2"),
        ({"count": {"min": 0, "max": 2}}, r"count\.min: got 0: .*greater than or equal to 1"),
        ({"count": 0}, r"count: got 0: .*greater than or equal to 1"),
        ({"count": "many"}, r"count: got 'many': .*integer"),
        ({"count": {"min": 1}}, r"count\.max: is required"),
        ({"count": {**RANGE, "maximum": 4}}, "no such key"),
        (
            {"count": RANGE, "label_selector": {"role": "students"}},
            "name that in resources_per_worker",
        ),
    ],
)
def test_ranges_that_cannot_be_are_refused(content, text):
    with pytest.raises(ConfigError, match=text):
        workers(**content)


def test_a_label_may_stand_beside_the_resource_that_is_counted():
    some = workers(
        count=RANGE, label_selector={"role": "students"}, resources_per_worker={"students": 1}
    )
    assert some.placed


def test_ray_train_is_asked_for_a_range():
    assert number_of(workers(count=2)) == {"num_workers": 2}
    assert number_of(workers(count={**RANGE, "look_every_s": 5})) == {
        "num_workers": (1, 3),
        "elastic_resize_monitor_interval_s": 5.0,
    }


@pytest.mark.parametrize(
    ("before", "now", "alive", "expected"),
    [
        (None, "ab", "ab", "the first group, with room for so many"),
        (None, "abc", "abc", "the first group"),
        ("ab", "a", "a", "lost with their nodes: 1 on b"),
        ("aab", "b", "b", "lost with their nodes: 2 on a"),
        ("ab", "a", "ab", "fewer, and no node is gone: a worker was lost, or others took the room"),
        ("a", "ab", "ab", "room for more on b"),
        ("a", "aa", "a", "room for more on the same nodes"),
        ("ab", "ac", "ac", "started again with as many; lost: b"),
        ("ab", "ab", "ab", "started again with as many"),
    ],
)
def test_the_reason_comes_from_the_nodes(before, now, alive, expected):
    assert why(None if before is None else list(before), list(now), set(alive), 3) == expected


@pytest.mark.parametrize(
    ("before", "now", "alive", "expected"),
    [
        ("abc", "a", "a", "the command was started again, with room for so many"),
        ("a", "abc", "abc", "the command was started again"),
    ],
)
def test_a_command_that_is_given_again_has_lost_nobody(before, now, alive, expected):
    assert why(list(before), list(now), set(alive), 3, again=True) == expected


class FakeRay:
    """Nodes of a cluster, some of them gone."""

    def __init__(self, *alive, job="01000000", known="abc"):
        self.alive, self.job, self.known = alive, job, known

    def get_job_id(self):
        return self.job

    def nodes(self):
        return [
            {
                "NodeID": name * 40,
                "NodeManagerHostname": f"host-{name}",
                "Alive": name in self.alive,
            }
            for name in self.known
        ]

    def get_runtime_context(self):
        return self

    def get_node_id(self):
        return self.alive[0] * 40


class Group(Alone):
    """As the first worker sees it."""

    def __init__(self, *nodes):
        self.nodes, self.world = nodes, len(nodes)

    def gather(self, values):
        [(rank, (node, worker))] = values.items()
        assert (rank, node) == ("0", self.nodes[0] * 40)
        return {str(rank): (node * 40, worker) for rank, node in enumerate(self.nodes)}


def test_each_group_is_told_with_the_one_before(tmp_path, monkeypatch):
    run, some = RunFolder(tmp_path, "r"), workers(count=RANGE)
    for group, alive in ((Group("a", "b"), "ab"), (Group("a"), "a"), (Group("a", "c"), "ac")):
        monkeypatch.setattr(group_size, "ray", FakeRay(*alive))
        record_group(some, run, group)
        with (run.path / "events.jsonl").open("a") as file:
            # Two machines at once.
            file.write('{"time": 1.0, "ki{"time": 1.0, "kind": "worker_started"}\n')
    events = [event for event in run.events() if event["kind"] == "worker_count"]
    assert [(event["before"], event["now"], event["most"]) for event in events] == [
        (None, 2, 3), (2, 1, 3), (1, 2, 3),
    ]  # fmt: skip
    assert events[1]["reason"] == "lost with their nodes: 1 on host-b (bbbbbb)"
    assert events[2]["reason"] == "room for more on host-c (cccccc)"


@pytest.mark.parametrize(
    ("later", "group"),
    [
        (FakeRay("a", job="02000000"), Group("a")),
        # A private Ray, whose first job has the same number.
        (FakeRay("d", known="d"), Group("d")),
    ],
)
def test_a_group_of_a_later_command_is_not_measured_by_the_one_before(
    tmp_path, monkeypatch, later, group
):
    run, some = RunFolder(tmp_path, "r"), workers(count=RANGE)
    monkeypatch.setattr(group_size, "ray", FakeRay("a", "b"))
    record_group(some, run, Group("a", "b"))
    monkeypatch.setattr(group_size, "ray", later)
    record_group(some, run, group)
    first, second = [event for event in run.events() if event["kind"] == "worker_count"]
    assert (first["job"], second["before"]) == ("01000000", 2)
    assert second["reason"] == "the command was started again, with room for so many"


def test_of_a_fixed_number_its_workers_are_told(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, "r")
    monkeypatch.setattr(group_size, "ray", FakeRay(*"ab"))
    record_group(workers(count=2), run, Group("a", "b"))
    events = run.events()
    assert [event["kind"] for event in events] == ["worker_started"] * 2
    assert [event["rank"] for event in events] == [0, 1]
    assert all(event["world"] == 2 and event["pid"] for event in events)


def facts(*students):
    nodes = [Node(f"n{index}", {"CPU": 2.0, "students": count}) for index, count in
             enumerate(students)]  # fmt: skip
    return ClusterFacts(tuple(nodes), {})


def test_a_cluster_needs_room_for_the_fewest_and_a_note_tells_of_the_others():
    config = tiny.train_config(
        "r", workers={"count": {"min": 2, "max": 3}, "resources_per_worker": {"students": 1}}
    )
    wishes = wishes_of(config, CHECKOUT)
    assert str(wishes[0]).startswith("2 to 3 training workers with 1 CPU + 1 students each")
    enough = compare({}, facts(2, 1), wishes)
    assert (enough.problems, len(enough.notes)) == ([], 1)
    for_now = compare({}, facts(1, 1), wishes)
    assert for_now.problems == []
    assert "there is room for 2" in for_now.notes[0]
    assert "can do with fewer" in for_now.notes[0]
    short = compare({}, facts(1), wishes)
    assert len(short.problems) == 1
    assert "there is room for 1" in short.problems[0]


def test_notes_say_what_a_change_costs_and_what_ray_counts():
    def notes(**options):
        config = tiny.train_config("r", **options)
        return notes_of_changes(config.workers, config.training)

    assert notes(workers={"count": 2}) == []
    found = notes(workers={"count": RANGE})
    assert len(found) == 2
    assert "checkpoint_every_updates" in found[0]
    assert "resources_per_worker" in found[1]
    placed = {"count": RANGE, "resources_per_worker": {"students": 1}}
    assert notes(workers=placed, training__checkpoint_every_updates=5) == []
