"""Systems times seeds: files, resumption, failures, commits."""

import json
import subprocess

import pytest
import tiny
import yaml

from kd_ray.commands.study import StudyFailed, study
from kd_ray.config.load import ConfigError, check


@pytest.fixture(scope="module")
def configs(tiny_root):
    """Two configurations on disk: a training and an evaluation of it."""
    train = tiny.train_config("study/base", training__epochs=1).model_dump(mode="json")
    evaluate = {
        "command": "evaluate",
        "name": "study/evaluation",
        "systems": {"students": {}},
        "splits": {"valid": "data/valid.parquet"},
        "tokens": "data/tokens.json",
        "speed_utterances": 0,
    }
    for name, content in (("train", train), ("evaluate", evaluate)):
        (tiny_root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tiny_root


def row(**changes):
    return {
        "tasks": [
            {
                "config": "train.yaml",
                "overrides": {"name": "study/{row}/{seed}", "training.seed": "{seed}"},
            }
        ],
        "evaluation": {
            "config": "evaluate.yaml",
            "overrides": {
                "name": "study/{row}/{seed}/evaluation",
                "systems.students": {"{row}": "runs/study/{row}/{seed}"},
            },
        },
        "system": "{row}",
        **changes,
    }


def settings(folder, rows, **changes):
    content = {"command": "study", "name": "study", "results": f"results/{folder}", "rows": rows}
    return check({**content, "seeds": [1, 2], **changes}, "test")


def test_each_row_and_seed_is_a_file_and_finished_ones_stay(configs):
    config = settings("files", {"plain": row()})
    table = study(config, configs)
    files = sorted((configs / "results" / "files").glob("*.json"))
    assert [path.name for path in files] == ["plain-seed-1.json", "plain-seed-2.json"]
    contents = [json.loads(path.read_text()) for path in files]
    assert [content["seed"] for content in contents] == [1, 2]
    digests = [content["system"]["digest"] for content in contents]
    assert digests[0] != digests[1]
    rates = [
        content["system"]["scores"]["valid"]["attention"]["error_rate"] for content in contents
    ]
    assert f"{sum(rates) / 2:.1f} ±" in table
    assert (configs / "results" / "files" / "table.md").read_text() == table
    # A file that is there is believed, whatever made it; one that is missing is made again.
    changed = contents[0] | {"seed": 7}
    files[0].write_text(json.dumps(changed))
    files[1].unlink()
    study(config, configs)
    assert json.loads(files[0].read_text())["seed"] == 7
    assert json.loads(files[1].read_text())["system"]["digest"] == digests[1]


def test_a_row_that_fails_does_not_stop_the_others(configs):
    bad = row(system="nobody")
    config = settings("failing", {"bad": bad, "plain": row()}, seeds=[1])
    with pytest.raises(StudyFailed, match=r"1 of 2 rows failed:\s+bad, seed 1: .*'nobody'"):
        study(config, configs)
    assert (configs / "results" / "failing" / "plain-seed-1.json").exists()
    assert "| plain | 1 |" in (configs / "results" / "failing" / "table.md").read_text()


def test_everything_is_read_before_anything_starts(configs):
    wrong = row(evaluation={"config": "train.yaml"})
    with pytest.raises(ConfigError, match=r"rows\.wrong\.evaluation.*kd-ray train.*evaluate"):
        study(settings("wrong", {"plain": row(), "wrong": wrong}), configs)
    assert not (configs / "results" / "wrong").exists()
    with pytest.raises(ConfigError, match="baseline must be one of the rows"):
        settings("wrong", {"plain": row()}, baseline="nll")
    with pytest.raises(ConfigError, match="seeds must differ"):
        settings("wrong", {"plain": row()}, seeds=[1, 1])


def test_finished_rows_are_committed_alone(configs):
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=configs, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("config", "user.email", "somebody@example.org")
    git("config", "user.name", "Somebody")
    (configs / "staged.txt").write_text("not part of it")
    git("add", "staged.txt")
    study(settings("kept", {"plain": row()}, seeds=[1], commit=True), configs)
    assert git("show", "--format=%s", "--name-only").split("\n") == [
        "results: plain, seed 1",
        "",
        "results/kept/plain-seed-1.json",
        "",
    ]
    assert git("status", "--short", "staged.txt") == "A  staged.txt\n"
