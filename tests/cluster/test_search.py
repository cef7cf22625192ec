"""Searches over tiny trainings, on Tune."""

import json
import shutil

import pytest
import ray
import tiny
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from search_help import make_store, search_config, write_base

from kd_ray.cluster.pool import service
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.search import search
from kd_ray.config.load import load
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.report.search import read_search

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("searches")
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    source = {"type": "store", "path": make_store(root)}
    write_base(root, "stored.yaml", teachers={"list": "teachers.txt", "source": source})
    write_base(root)
    return root


def trials_of(root, name):
    return {trial.number: trial for trial in read_search(root, name).trials}


def test_trials_share_a_store_and_one_that_fails_does_not_end_the_search(root):
    values = [{"optimizer": {"lr": lr}} for lr in (0.01, 0.02, 0.03)]
    space = {"training": {"type": "choice", "values": [*values, {"init_from": "nowhere"}]}}
    config = search_config(
        "stored", "stored.yaml", space, concurrent=2,
        overrides={"training.epochs": 2}, evaluate={"splits": {"valid": "data/valid.parquet"}},
    )  # fmt: skip
    content = search(config, root)
    trials = trials_of(root, "stored")
    assert [trials[number].state for number in (1, 2, 3, 4)] == [*["finished"] * 3, "failed"]
    assert "nowhere" in trials[4].reason
    assert [each["number"] for each in content["settings"]][3] == 4
    assert content["verdict"]["split"] == "valid"
    assert content["teacher_work"] == ["All trials read one store: no axis cost teachers any work."]
    folder = root / "runs" / "stored"
    assert "nowhere" in (folder / "report.html").read_text()
    best = load(folder / "best.yaml")
    winner = trials[content["verdict"]["winner"]]
    assert best.training.optimizer.lr == winner.setting["training"]["optimizer"]["lr"]
    assert best.teachers.source.type == "store"

    # Once more: what is finished stays as it is, what failed is tried again.
    before = {number: stamp(trials[number].folder) for number in (1, 2, 3)}
    search(config, root)
    again = trials_of(root, "stored")
    assert {number: stamp(again[number].folder) for number in (1, 2, 3)} == before
    assert again[4].state == "failed"
    assert again[4].ended > trials[4].ended


def stamp(folder):
    files = ("summary.json", "metrics.jsonl", "model/model.safetensors")
    return [(folder / file).stat().st_mtime_ns for file in files]


def test_a_trial_that_is_stopped_early_can_go_on_from_its_last_epoch(root, monkeypatch):
    decide = ASHAScheduler.on_trial_result

    def decide_otherwise(self, controller, trial, result):
        decide(self, controller, trial, result)
        return TrialScheduler.STOP if result["epoch"] == 2 else TrialScheduler.CONTINUE

    monkeypatch.setattr(ASHAScheduler, "on_trial_result", decide_otherwise)
    space = {"distillation.alpha": {"type": "choice", "values": [0.5]}}
    config = search_config(
        "stopped", "stored.yaml", space, scheduler={"type": "asha"}, concurrent=1
    )
    with pytest.raises(RuntimeError, match="no trial was finished"):
        search(config, root)
    trial = trials_of(root, "stopped")[1]
    assert trial.state == "stopped"
    assert [epoch for epoch, _ in trial.curve] == [1, 2]
    # Epochs have three updates. The checkpoint was written before anybody was told.
    assert (trial.folder / "checkpoints" / "update-00000006").exists()
    assert RunFolder(root, trial.name).summary() is None
    summary = run_training(load(trial.folder / "config.json"), root)
    assert summary["updates"] == 12
    events = read_json_lines(trial.folder / "events.jsonl")
    assert [event["update"] for event in events if event["kind"] == "resumed"] == [6]


def test_a_search_brings_up_one_pool_and_its_trials_share_what_teachers_said(root):
    config = search_config(
        "pooled", concurrent=1, overrides={"training.epochs": 2},
        cpus_per_trial=0.5, pool={"hosts": 1, "cpus_per_host": 0.5, "cache_mib": 16},
    )  # fmt: skip
    content = search(config, root)
    trials = trials_of(root, "pooled")
    assert all(trial.state == "finished" for trial in trials.values())
    computed = [trials[n].teacher_work.rows - trials[n].teacher_work.known_rows for n in trials]
    # 24 utterances times 3 teachers; the second epoch and all later trials find them.
    assert sorted(computed) == [0, 0, 0, 72]
    assert all(trial.teacher_work.rows == 144 for trial in trials.values())
    said = " ".join(content["teacher_work"])
    assert "Axes that cost no teacher work: teachers.strategy, distillation.alpha." in said
    assert "search-pooled" not in service.names()
    assert load(root / "runs/pooled/best.yaml").teachers.source.type == "local"
    note = json.loads((trials[1].folder / "trial.json").read_text())
    assert "teachers.source=" in note["repeat"]


def test_the_pool_ends_also_when_the_search_does_not_come_to_its_end(root, monkeypatch):
    def fail(*arguments, **options):
        assert "search-broken" in service.names()
        raise OSError("disk full")

    monkeypatch.setattr("kd_ray.commands.search.run_trials", fail)
    config = search_config("broken", pool={"hosts": 1, "cpus_per_host": 0.5})
    with pytest.raises(OSError, match="disk full"):
        search(config, root)
    assert "search-broken" not in service.names()
    assert ray.is_initialized()


@pytest.mark.long
def test_a_search_at_an_address_goes_on_where_another_node_left_it(far, root):
    for name in ("data", "teachers", "store"):
        shutil.copytree(root / name, far.folder / name)
    for name in ("teachers.txt", "stored.yaml"):
        shutil.copy(root / name, far.folder)
    space = {"distillation.alpha": {"type": "choice", "values": [0.3, 0.9]}}
    changes = {"concurrent": 1, "overrides": {"training.epochs": 2}}
    search(search_config("away", str(far.folder / "stored.yaml"), space, **changes), far.root)
    before = {trial.key: trial.ended for trial in read_search(far.root, "away").trials}
    far.other_node()
    content = search(
        search_config("away", str(far.folder / "stored.yaml"), space, **changes, seeds=[1, 2]),
        far.root,
    )
    trials = read_search(far.root, "away").trials
    assert [trial.state for trial in trials] == ["finished"] * 4
    assert {trial.key: trial.ended for trial in trials if trial.key in before} == before
    assert content["verdict"]["winner"] in (1, 2)
    assert (far.folder / "runs/away/best.yaml").exists()
    assert (far.folder / "runs/away/report.html").exists()
