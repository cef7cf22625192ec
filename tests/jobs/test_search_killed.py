"""A search that is killed in the middle, and started again."""

import json
import signal
import time

import pytest
import tiny
from search_help import make_store, search_config, write_base
from yaml_files import finish, kd_ray, write_config

from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.report.search import read_search

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed-search")
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    source = {"type": "store", "path": make_store(root)}
    training = {"epochs": 40, "checkpoint_every_updates": 2}
    teachers = {"list": "teachers.txt", "source": source}
    write_base(root, teachers=teachers, training=training)
    return root


def folders_of(root):
    return sorted((root / "runs" / "search" / "trials").glob("*/trial.json"))


def updates_of(folder):
    path = folder / "metrics.jsonl"
    lines = read_json_lines(path) if path.exists() else []
    return [line["update"] for line in lines if line["kind"] == "train"]


def test_a_killed_search_goes_on_and_trains_no_finished_trial_again(root):
    asha = {"type": "asha", "grace_epochs": 30, "reduction_factor": 2}
    config = write_config(root / "search.yaml", search_config(concurrent=1, scheduler=asha))
    killed = kd_ray("search", config, root=root)
    limit = time.monotonic() + 400

    def middle():
        """One trial is at its end, another is being trained."""
        ended = [path for path in folders_of(root) if "ended" in json.loads(path.read_text())]
        running = [path for path in folders_of(root) if path not in ended]
        return ended and any(len(updates_of(path.parent)) >= 5 for path in running)

    while not middle():
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    before = {trial.key: trial for trial in read_search(root, "search").trials}
    ended = {key for key, trial in before.items() if trial.state in ("finished", "stopped")}
    [cut] = [key for key, trial in before.items() if trial.state == "unfinished"]
    assert ended
    assert len(before) < 4

    output = finish(kd_ray("search", config, root=root), timeout_s=500)
    results = read_search(root, "search")
    assert len(results.trials) == 4
    assert all(trial.state in ("finished", "stopped") for trial in results.trials)
    for trial in results.trials:
        if trial.key in ended:
            assert trial.ended == before[trial.key].ended
        if trial.state == "finished":
            assert updates_of(trial.folder) == list(range(1, 121))
    events = read_json_lines(root / "runs" / "search" / "trials" / cut / "events.jsonl")
    assert [event["kind"] for event in events if event["kind"] == "resumed"] == ["resumed"]
    assert "settings by validation" in output
    content = json.loads((root / "runs" / "search" / "search.json").read_text())
    assert len(content["settings"]) == 4
