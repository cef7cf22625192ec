"""Nodes of two kinds, some of which go and come while a student trains (a program of its own)."""

import secrets

import pytest
import tiny
from test_pool_losses import program, result_of
from tiny_runs import assert_close, last_weights, run
from traced_updates import trace_of, traced

from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.ray]


@pytest.fixture(scope="module")
def found(tiny_root):
    """What became of each command, all on one cluster."""
    # Nodes and driver alike, whatever lies in the home folder.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    running = program("three_nodes", tiny_root, "infer", "search", "train", **token)
    return result_of(running, timeout_s=800)


@pytest.fixture(scope="module")
def undisturbed(tiny_root):
    """The same training with one worker in this process, and with teachers in it."""
    config = tiny.distill_config(
        "undisturbed", "teachers.txt", **tiny.PLAIN_SGD,
        training__epochs=6,
        # As many micro-batches as two workers have.
        training__accumulation=2,
    )  # fmt: skip
    source = LocalSource(load_teachers([tiny_root / f"teachers/t{each}" for each in range(3)]))
    with traced(tiny_root / "traces" / config.name):
        run(config, tiny_root, source=source)
    source.close()
    return config


def test_everybody_lives_on_nodes_of_their_kind(found):
    trained = found["train"]
    assert found["infer"]["rows"] == 72
    assert set(found["infer"]["nodes"]) == {trained["old_teachers"]}
    assert set(trained["first"]) == {trained["old_teachers"]}
    assert set(trained["later"]) == {trained["new_teachers"]}
    ids = [[place.split("(")[1][:6] for place in group["nodes"]] for group in trained["groups"]]
    assert trained["old_students"][:6] in ids[0]
    assert trained["new_students"][:6] in ids[-1]
    teachers = {trained[name][:6] for name in ("old_teachers", "new_teachers")}
    assert not teachers & {place for group in ids for place in group}


def test_a_search_has_its_pool_on_one_kind_of_node_and_its_trials_on_the_other(found):
    searched = found["search"]
    assert searched["states"] == ["finished", "finished"]
    assert searched["winner"] in (1, 2)
    assert set(searched["hosts"]) == {searched["teachers"]}
    assert len(searched["workers_on"]) == 2
    assert searched["teachers"] not in searched["workers_on"]


def test_the_number_of_workers_follows_the_nodes_and_says_why(found):
    groups = [group for group in found["train"]["groups"] if group["before"] != group["now"]]
    assert [(group["before"], group["now"]) for group in groups] == [(None, 2), (2, 1), (1, 2)]
    reasons = ("the first group", "lost with their nodes: 1 on", "room for more on")
    for group, reason in zip(groups, reasons, strict=True):
        assert group["reason"].startswith(reason)


def test_lost_teachers_come_back_on_the_new_node(found):
    kinds = found["train"]["kinds"]
    # A host may be started once more on the node that is gone, before Ray knows that.
    assert kinds.count("host_died") >= 2
    assert kinds.count("host_started_again") >= 2
    assert "teachers_gone" not in kinds
    assert "signal_shortened" not in kinds


def test_the_same_utterances_and_the_same_student_as_undisturbed(found, undisturbed, tiny_root):
    mine, theirs = (trace_of(tiny_root / "traces" / name) for name in ("nodes", "undisturbed"))
    assert [each["world"] for each in theirs] == [1] * 18
    worlds = [each["world"] for each in mine]
    assert set(worlds[:4]) == {2}
    assert set(worlds[6:12]) == {1}
    assert set(worlds[14:]) == {2}
    assert len(worlds) == 18
    for one, other in zip(mine, theirs, strict=True):
        assert one["ids"] == other["ids"]
        assert one["micro_batches"] == other["micro_batches"]
    assert_close(last_weights(tiny_root, "nodes"), last_weights(tiny_root, "undisturbed"), 1e-4)
    lines = read_json_lines(tiny_root / "runs" / "nodes" / "metrics.jsonl")
    updates = [line["update"] for line in lines if line["kind"] == "train"]
    assert updates == list(range(1, 19))
    assert found["train"]["summary"]["updates"] == 18
