import json
from pathlib import Path

import pytest
from report_folders import FAULTS, write_evaluation, write_run

from kd_ray.report.results import ReportError, read_json_lines, read_results
from kd_ray.report.runs import (
    compare_configs,
    environment_facts,
    flatten,
    read_run,
    read_runs,
    repeat_command,
    when,
)
from kd_ray.report.tables import DASH


def test_a_run_folder_is_read_whole(tmp_path: Path):
    run = read_run(write_run(tmp_path, "demo/x", events=FAULTS, ties=0.7), "x", "student")
    assert (run.command, run.name, run.status) == ("distill", "demo/x", "finished")
    assert len(run.train) == 120
    assert len(run.valid) == 12
    assert [event["kind"] for event in run.faults] == [
        "teacher_host_lost",
        "quorum",
        "skipped_update",
    ]
    assert run.warns_of_ties


def test_an_unfinished_run_can_be_reported(tmp_path: Path):
    run = read_run(write_run(tmp_path, "x", finished=False), "x", "student")
    assert not run.finished
    assert "not finished" in run.status
    assert not run.warns_of_ties


def test_a_folder_without_config_is_no_run_folder(tmp_path: Path):
    with pytest.raises(ReportError, match=r"run 'x': .*no config\.json"):
        read_run(tmp_path, "x", "student")


def test_after_a_resume_the_later_line_of_an_update_counts(tmp_path: Path):
    folder = write_run(tmp_path, "x", epochs=1, updates=3)
    again = {"kind": "train", "update": 2, "epoch": 1, "loss": 99.0}
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(again) + "\n")
    run = read_run(folder, "x", "student")
    assert [row["update"] for row in run.train] == [1, 2, 3]
    assert run.train[1]["loss"] == 99.0


def test_a_torn_line_of_a_run_leaves_the_rest_of_its_report(tmp_path: Path):
    folder = write_run(tmp_path, "x", epochs=1, updates=3)
    for name in ("metrics", "events"):
        with (folder / f"{name}.jsonl").open("a") as stream:
            stream.write('{"ki{"kind": "train"}\n')
    run = read_run(folder, "x", "student")
    assert [row["update"] for row in run.train] == [1, 2, 3]


def test_a_last_line_cut_short_is_left_out_and_a_broken_one_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(ReportError, match="line 2"):
        read_json_lines(path)


def test_runs_are_told_apart_by_label_or_by_the_evaluated_folder(tmp_path: Path):
    results = read_results(write_evaluation(tmp_path / "evaluation", teachers=1))
    moved = results.model_copy(
        update={
            "systems": [
                s.model_copy(update={"folder": str(tmp_path / "seen" / "checkpoints" / "best")})
                if s.label == "teacher-01"
                else s
                for s in results.systems
            ]
        }
    )
    folders = {
        "weighted": write_run(tmp_path / "a", "a"),
        "other name": write_run(tmp_path / "seen", "seen"),
        "stranger": write_run(tmp_path / "b", "b"),
    }
    assert [run.kind for run in read_runs(folders, moved)] == ["student", "teacher", "other"]


def test_relative_checkpoint_folders_are_found_in_their_runs(tmp_path: Path):
    folder = write_run(tmp_path / "runs" / "demo" / "teachers" / "teacher-01", "t")
    results = read_results(write_evaluation(tmp_path / "evaluation", teachers=1))
    runs = read_runs({"some name": folder, "above": write_run(tmp_path / "runs", "r")}, results)
    assert [run.kind for run in runs] == ["teacher", "other"]


def test_configs_are_split_into_shared_and_differing_settings(tmp_path: Path):
    runs = [
        read_run(write_run(tmp_path / "1", "one", strategy="best"), "one", "student"),
        read_run(
            write_run(tmp_path / "2", "two", strategy=None, command="train"), "two", "student"
        ),
    ]
    shared, differing = compare_configs(runs)
    assert shared["data.batches.batch_size"] == 16
    assert list(map(str, differing["teachers.strategy.type"])) == ["best", DASH]
    assert "name" not in shared
    assert "name" not in differing


def test_flatten_makes_dotted_keys_and_keeps_empty_sections():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_the_repeat_command_quotes_what_a_shell_would_read():
    assert repeat_command("train", "demo/a") == (
        "kd-ray train runs/demo/a/config.json name=demo/a-repeat"
    )
    assert "'runs/a b; rm/config.json'" in repeat_command("train", "a b; rm")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        ("2026-01-02T03:04:05+01:00", "2026-01-02 02:04:05 UTC"),
        ("2026-01-02T03:04:05", "2026-01-02 03:04:05"),
        ("soon", "soon"),
        (1e30, "1e+30"),
    ],
)
def test_times_are_shown_in_one_form(value: object, shown: str):
    assert when(value) == shown


def test_environments_are_merged_to_their_distinct_values():
    first = {"commit": "a", "packages": {"torch": "2", "ray": None}, "date": "2026-01-01 10:00"}
    second = {"commit": "b", "packages": {"torch": "2"}, "date": 86400, "command": ["kd-ray", "x"]}
    facts = environment_facts([first, second, {"cpus": 2, "gpus": [], "node": "n1"}])
    assert facts == {
        "Commit": "a; b",
        "Date": "2026-01-01; 1970-01-02",
        "Hardware": "2 CPUs",
        "Versions": "torch 2",
        "Started by": "kd-ray x",
        "Node": "n1",
    }
