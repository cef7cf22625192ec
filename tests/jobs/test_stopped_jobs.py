"""Jobs that are stopped leave nothing behind, and go on when they are submitted again."""

import json
from pathlib import Path

import pytest
import tiny
from job_head import until
from search_help import search_config, write_base
from yaml_files import write_config

from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.report.search import read_search

pytestmark = [pytest.mark.slow, pytest.mark.long]

LONG = {"epochs": 120, "checkpoint_every_updates": 2}
"""360 updates: time enough to be stopped."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    return root


def updates_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = read_json_lines(path) if path.exists() else []
    return [line["update"] for line in lines if line["kind"] == "train"]


def resumed(folder: Path) -> int:
    events = read_json_lines(folder / "events.jsonl")
    return sum(event["kind"] == "resumed" for event in events)


def stop_in_the_middle(head, job, under_way):
    """Stop a job once it is under way, and see that nothing of it is left."""
    until(under_way, 600, lambda: head.logs(job))
    head.stop(job)
    until(
        lambda: not head.left_over() and not head.processes(), 60,
        lambda: (head.left_over(), head.processes()),
    )  # fmt: skip


def test_a_stopped_distillation_leaves_nothing_behind_and_goes_on(head, checkout, root):
    pool = {"type": "pool", "hosts": 1}
    config = tiny.distill_config(
        "job/stopped", "teachers.txt", teachers__source=pool,
        training__epochs=LONG["epochs"],
        training__checkpoint_every_updates=LONG["checkpoint_every_updates"],
    )  # fmt: skip
    write_config(checkout / "stopped.yaml", config)
    command = ("python", "jobs/distill.py", "stopped.yaml")
    options = ("--no-wait", "--submission-id", "distill-1")
    code, output = head.submit(checkout, root, *command, options=options)
    assert code == 0, output
    folder = root / "runs" / "job" / "stopped"
    stop_in_the_middle(head, "distill-1", lambda: len(updates_of(folder)) >= 5)
    assert RunFolder(root, "job/stopped").summary() is None

    code, output = head.submit(checkout, root, *command)
    assert code == 0, output
    assert updates_of(folder) == list(range(1, 361))
    assert resumed(folder) == 1
    until(lambda: not head.left_over(), 60, head.left_over)


def test_a_stopped_search_leaves_nothing_behind_and_goes_on(head, checkout, root):
    write_base(root, training={**LONG, "optimizer": {"lr": 0.01}})
    space = {"distillation.alpha": {"type": "choice", "values": [0.3, 0.9]}}
    pool = {"hosts": 1, "cpus_per_host": 0.5, "cache_mib": 64}
    config = search_config("job/search", space=space, concurrent=1, pool=pool)
    write_config(checkout / "search.yaml", config)
    command = ("python", "jobs/search.py", "search.yaml")
    options = ("--no-wait", "--submission-id", "search-1")
    code, output = head.submit(checkout, root, *command, options=options)
    assert code == 0, output
    trials = root / "runs" / "job" / "search" / "trials"

    def second_trial_runs():
        folders = sorted(trials.glob("*/trial.json"))
        return len(folders) == 2 and all(len(updates_of(each.parent)) >= 5 for each in folders)

    stop_in_the_middle(head, "search-1", second_trial_runs)
    before = {trial.key: trial for trial in read_search(root, "job/search").trials}
    assert sorted(trial.state for trial in before.values()) == ["finished", "unfinished"]

    code, output = head.submit(checkout, root, *command)
    assert code == 0, output
    after = {trial.key: trial for trial in read_search(root, "job/search").trials}
    for key, trial in after.items():
        assert trial.state == "finished"
        assert updates_of(trial.folder) == list(range(1, 361))
        # What was finished was not trained again.
        again = before[key].state == "unfinished"
        assert resumed(trial.folder) == again
        if not again:
            assert trial.ended == before[key].ended
    content = json.loads((trials.parent / "search.json").read_text())
    assert len(content["settings"]) == 2
    until(lambda: not head.left_over(), 60, head.left_over)
