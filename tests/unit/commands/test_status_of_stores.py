"""`kd-ray status` of target stores: here and at an address, before, while and after they fill."""

import json

import pytest
from store_doubles import fill, filled_store, info, utterances
from yaml_files import write_config

from kd_ray import cli
from kd_ray.commands.status import status
from kd_ray.evaluation.run_folder import RunFolder, write_json
from kd_ray.teachers.store import TargetStore

INFER = {
    "command": "infer-teachers", "store": "store", "teachers": "teachers.txt",
    "splits": {"train": "data/train.parquet"}, "tokens": "data/tokens.json",
}  # fmt: skip


def shown(capsys, *arguments):
    assert cli.main(["status", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def infer(tmp_path):
    return write_config(tmp_path / "infer.yaml", INFER)


def test_a_store_that_has_not_begun_says_so(tmp_path, infer, capsys, monkeypatch):
    monkeypatch.setenv("KD_RAY_ROOT", str(tmp_path))
    assert f"store {tmp_path / 'store'}: not begun" in shown(capsys, infer)
    [found] = json.loads(shown(capsys, infer, "--json"))["stores"]
    assert found == {
        "folder": str(tmp_path / "store"), "teachers": 0, "splits": {}, "committed": 0, "shards": 0,
    }  # fmt: skip


def test_a_full_store_at_an_address_is_seen_from_another_node(far, infer, capsys):
    filled_store(far.root / "store")
    for name in (infer, "store", f"file://{far.folder}/store"):
        far.other_node()
        text = shown(capsys, name)
        assert f"store file://{far.folder}/store: 3 teachers" in text
        assert "9 of 9 shards, 100 %" in text
    assert not list(far.root.rglob("part-*"))
    (next(far.folder.rglob("part-00001.parquet"))).unlink()
    assert "8 of 9 shards, 89 %" in shown(capsys, "store")


def test_a_distillation_at_an_address_is_told_with_its_store(far):
    filled_store(far.root / "store")
    source = {"type": "store", "path": "store"}
    config = {"command": "distill", "name": "r", "teachers": {"source": source}}
    write_json(far.root / "runs" / "r" / "config.json", config)
    far.other_node()
    (run,) = status("r", far.root)
    assert run.teachers["store_fill"] == {"committed": 9, "shards": 9}


def test_watching_a_store_goes_on_until_it_is_full(tmp_path, infer, capsys, monkeypatch):
    monkeypatch.setenv("KD_RAY_ROOT", str(tmp_path))
    folder = tmp_path / "store"
    steps = iter(
        (
            lambda: TargetStore.create(folder, [info(0), info(1)]),
            lambda: TargetStore.open(folder).plan("train", utterances(8), 4, column="phones"),
            lambda: fill(TargetStore.open(folder), "train", [info(0).digest]),
            lambda: fill(TargetStore.open(folder), "train"),
        )
    )
    monkeypatch.setattr("kd_ray.commands.status.time.sleep", lambda seconds: next(steps)())
    text = shown(capsys, infer, "--watch", 5)
    lines = [line.split(": ")[-1].strip() for line in text.splitlines()]
    assert lines[:2] == ["not begun", "2 teachers"]
    assert [line.split()[1] for line in lines if "shards" in line] == ["0", "2", "4"]
    assert next(steps, None) is None


def test_trials_of_a_search_at_an_address_are_there_at_the_first_look(far, tmp_path, capsys):
    axis = {"type": "choice", "values": [0.3, 0.9]}
    search = {
        "command": "search", "name": "demo/search", "base": "base.yaml",
        "space": {"distillation.alpha": axis},
    }  # fmt: skip
    config = write_config(tmp_path / "search.yaml", search)
    [waiting] = status(str(config), far.root)
    assert (waiting.name, waiting.state) == ("demo/search", "waiting")
    for name, command in (("demo/search", "search"), ("demo/search/trials/x-s1", "distill")):
        write_json(RunFolder(far.root, name).path / "config.json", {"command": command})
    far.other_node()
    found = [each.name for each in status(str(config), far.root)]
    assert found == ["demo/search", "demo/search/trials/x-s1"]
