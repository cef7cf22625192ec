"""`kd-ray status`: real runs of the tiny corpus, looked at from their folders."""

import json
import subprocess
import sys

import pytest
import tiny
from tiny_runs import run, run_until
from yaml_files import CHECKOUT, write_config

from kd_ray import cli
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.status import status
from kd_ray.evaluation.heartbeat import Heartbeat, Work, read_state, this_process
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError, write_json
from kd_ray.report.run_status import NoRun
from kd_ray.teachers.store import TargetStore


def shown(capsys, *arguments):
    assert cli.main(["status", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def at_root(tiny_root, monkeypatch):
    monkeypatch.setenv("KD_RAY_ROOT", str(tiny_root))
    return tiny_root


def test_a_finished_and_a_stopped_distillation(at_root, capsys):
    run(tiny.train_config("seen/whole"), at_root)
    run_until(4, tiny.train_config("seen/half"), at_root, None)
    whole = shown(capsys, "seen/whole")
    assert "seen/whole: finished (train)" in whole
    assert "validation  epoch 2, update 6" in whole
    half = shown(capsys, str(at_root / "runs" / "seen" / "half"))
    assert "seen/half: stopped (train)" in half
    assert "epoch 2/2  update 4/6  67 %" in half
    assert "KeyboardInterrupt" in half
    both = json.loads(shown(capsys, "seen", "--json"))["runs"]
    assert [(each["name"], each["state"]) for each in both] == [
        ("seen/half", "stopped"), ("seen/whole", "finished"),
    ]  # fmt: skip
    assert both[0]["train"]["tokens"] > 0
    assert both[0]["work"]["done"] == 4
    # The same command goes on, and says so.
    run(tiny.train_config("seen/half"), at_root)
    assert "seen/half: finished" in shown(capsys, "seen/half")


def test_what_teachers_said_is_counted(at_root, capsys):
    from kd_ray.teachers.local_source import LocalSource
    from kd_ray.teachers.teacher import load_teachers

    config = tiny.distill_config("seen/distilled", "teachers.txt")
    source = LocalSource(load_teachers([at_root / f"teachers/t{n}" for n in range(3)], "cpu"))
    run(config, at_root, source=source)
    said = read_state(at_root / "runs" / "seen" / "distilled").more["teachers"]
    assert said["number"] == 3
    assert said["signals"] == 6
    assert said["missing_answers"] == 0
    [found] = json.loads(shown(capsys, "seen/distilled", "--json"))["runs"]
    assert found["teachers"]["strategy"] == config.teachers.strategy.type
    assert found["teachers"]["costs"]["requests"] == 6


def test_configurations_name_runs_that_have_not_begun(at_root, tmp_path, capsys):
    base = tiny.train_config("base").model_dump(mode="json")
    names = ["one", "two"]
    teachers = {
        "command": "train-teachers", "name": "seen-later", "base": base,
        "teachers": [{"name": name} for name in names],
    }  # fmt: skip
    first = write_config(tmp_path / "teachers.yaml", teachers)
    run(tiny.train_config("seen-later/two"), at_root)
    table = shown(capsys, str(first))
    assert "1 waiting, 1 finished" in table
    recipe = {
        "command": "recipe", "name": "seen-recipe",
        "steps": [{"title": "teachers", "tasks": [{"config": str(first)}]}],
    }  # fmt: skip
    second = write_config(tmp_path / "recipe.yaml", recipe)
    found = json.loads(shown(capsys, str(second), "--json"))["runs"]
    assert [each["state"] for each in found] == ["waiting", "finished"]


def test_how_full_a_store_is(at_root, capsys):
    from kd_ray.speech.manifest import read_manifest
    from kd_ray.teachers.cards import Blueprints, card_of

    blueprints = Blueprints()
    infos = [card_of(at_root / f"teachers/t{n}", n, blueprints).info for n in range(3)]
    store = TargetStore.prepare(at_root / "seen-store", infos)
    store.plan("train", read_manifest(at_root / "data" / "train.parquet"), 8, column="phones")
    text = shown(capsys, "seen-store")
    assert "3 teachers" in text
    assert "0 of 9 shards, 0 %" in text
    [found] = json.loads(shown(capsys, "seen-store", "--json"))["stores"]
    assert (found["committed"], found["shards"]) == (0, 9)


def test_watching_a_store_that_nobody_fills_comes_to_an_end(at_root, capsys):
    test_how_full_a_store_is(at_root, capsys)
    text = shown(capsys, "seen-store", "--watch", "0.02", "--stale-after", "0.1")
    assert text.count("0 of 9 shards") >= 2


def test_a_run_whose_store_cannot_be_read_is_told_of_all_the_same(at_root, capsys):
    folder = at_root / "runs" / "stored"
    store = {"type": "store", "path": "broken-store"}
    write_json(folder / "config.json", {"command": "distill", "teachers": {"source": store}})
    write_json(at_root / "broken-store" / "store.json", {"version": 0})
    text = shown(capsys, "stored")
    assert "stored: unfinished" in text
    assert "store cannot be read" in text


def test_nothing_there_is_an_error_with_a_way_out(at_root, capsys):
    with pytest.raises(NoRun, match="no run 'nowhere'"):
        status("nowhere", at_root)
    assert cli.main(["status", "nowhere"]) == 2
    assert "Runs lie in" in capsys.readouterr().err
    with pytest.raises(NoRun, match="no folder with a config"):
        status("data", at_root)


def test_watching_ends_with_the_run(at_root, capsys):
    run(tiny.train_config("watched"), at_root)
    assert shown(capsys, "watched", "--watch", "0.01").count("watched: finished") == 1


def test_watching_goes_on_while_a_worker_group_is_started_again(at_root, capsys, monkeypatch):
    config = tiny.train_config("regrouped")
    folder = RunFolder(at_root, "regrouped").open(config)
    driver = this_process()
    with (
        pytest.raises(RuntimeError),
        Heartbeat(folder, "train", Work("training", 3, 6), driver=driver),
    ):
        raise RuntimeError("Connection closed by peer")
    waits = []

    def next_group(seconds):
        waits.append(seconds)
        with Heartbeat(folder, "train", Work("training", 6, 6), driver=driver):
            folder.write_summary({"status": "finished"})

    monkeypatch.setattr("kd_ray.commands.status.time.sleep", next_group)
    text = shown(capsys, "regrouped", "--watch", "7")
    assert waits == [7.0]
    assert text.index("regrouped: starting") < text.index("regrouped: finished")


def test_a_training_that_cannot_start_says_why_in_its_folder(at_root):
    config = tiny.train_config("unstartable", data__train="nowhere.parquet")
    with pytest.raises((ValueError, OSError), match="nowhere"):
        run_training(config, at_root)
    state = read_state(at_root / "runs" / "unstartable")
    assert state.state == "failed"
    assert "nowhere" in state.error


def test_another_configuration_leaves_the_state_of_a_run_alone(at_root):
    run(tiny.train_config("taken"), at_root)
    before = read_state(at_root / "runs" / "taken")
    with pytest.raises(RunFolderError):
        run_training(tiny.train_config("taken", training__seed=9), at_root)
    assert read_state(RunFolder(at_root, "taken").path) == before


def test_looking_needs_no_ray(at_root):
    run(tiny.train_config("seen-alone"), at_root)
    code = (
        "import sys; from kd_ray.cli import main; main(['status', 'seen-alone']); "
        "sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "seen-alone: finished" in done.stdout
