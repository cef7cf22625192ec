"""A number of workers that may change: what may be written, what Ray is asked for, what is told."""

import pytest
import tiny

from kd_ray.cluster import group_size
from kd_ray.cluster.compare import ClusterFacts, compare
from kd_ray.cluster.group_size import number_of, record_size, why
from kd_ray.cluster.room import Node
from kd_ray.commands.check_cluster import notes_of_changes, wishes_of
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.training import Workers
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
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
        ("ab", "a", "ab", "a worker was lost, and its place is not free any more"),
        ("a", "ab", "ab", "room for more on b"),
        ("a", "aa", "a", "room for more on the same nodes"),
        ("ab", "ac", "ac", "started again with as many; lost: b"),
        ("ab", "ab", "ab", "started again with as many"),
    ],
)
def test_the_reason_comes_from_the_nodes(before, now, alive, expected):
    assert why(None if before is None else list(before), list(now), set(alive), 3) == expected


class FakeRay:
    """Nodes of a cluster, some of them gone."""

    def __init__(self, *alive):
        self.alive = alive

    def nodes(self):
        return [
            {
                "NodeID": name * 40,
                "NodeManagerHostname": f"host-{name}",
                "Alive": name in self.alive,
            }
            for name in "abc"
        ]

    def get_runtime_context(self):
        return self

    def get_node_id(self):
        return "a" * 40


class Group(Alone):
    """As the first worker sees it."""

    def __init__(self, *nodes):
        self.nodes, self.world = nodes, len(nodes)

    def gather(self, values):
        assert values == {"0": self.nodes[0] * 40}
        return {str(rank): node * 40 for rank, node in enumerate(self.nodes)}


def test_each_group_is_told_with_the_one_before(tmp_path, monkeypatch):
    run, some = RunFolder(tmp_path, "r"), workers(count=RANGE)
    for group, alive in ((Group("a", "b"), "ab"), (Group("a"), "a"), (Group("a", "c"), "ac")):
        monkeypatch.setattr(group_size, "ray", FakeRay(*alive))
        record_size(some, run, group)
    events = read_json_lines(run.path / "events.jsonl")
    assert [(event["before"], event["now"], event["most"]) for event in events] == [
        (None, 2, 3), (2, 1, 3), (1, 2, 3),
    ]  # fmt: skip
    assert events[1]["reason"] == "lost with their nodes: 1 on host-b (bbbbbb)"
    assert events[2]["reason"] == "room for more on host-c (cccccc)"


def test_a_fixed_number_is_no_event(tmp_path):
    run = RunFolder(tmp_path, "r")
    record_size(workers(count=2), run, Group("a", "b"))
    assert not (run.path / "events.jsonl").exists()


def facts(*students):
    nodes = [Node(f"n{index}", {"CPU": 2.0, "students": count}) for index, count in
             enumerate(students)]  # fmt: skip
    return ClusterFacts(tuple(nodes), {})


def test_a_cluster_needs_room_for_the_fewest_and_a_note_tells_of_the_others():
    config = tiny.train_config(
        "r", workers={"count": {"min": 2, "max": 3}, "resources_per_worker": {"students": 1}}
    )
    wishes = wishes_of(config)
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
