"""Keys in the environment stay there: nothing that a command writes repeats them."""

import logging

import tiny
from yaml_files import write_config

from kd_ray import cli
from kd_ray.evaluation.run_folder import environment

KEY = "planted-7b1c40fe92d35a68"
NAMES = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "MY_PASSWORD")


def files_with_the_key(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if KEY.encode() in path.read_bytes()]


def test_no_file_log_or_report_of_a_run_holds_a_key(
    tiny_root, tmp_path, monkeypatch, caplog, capfd
):
    for name in NAMES:
        monkeypatch.setenv(name, KEY)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("KD_RAY_ROOT", str(tiny_root))
    caplog.set_level(logging.DEBUG)
    student = tiny.distill_config("secret/student", "teachers.txt", training__epochs=1)
    evaluation = {
        "command": "evaluate", "name": "secret/evaluation", "speed_utterances": 0,
        "systems": {"students": {"student": "runs/secret/student"}},
        "splits": {"valid": "data/valid.parquet"}, "tokens": "data/tokens.json",
    }  # fmt: skip
    page = {
        "command": "report", "name": "secret", "title": "t", "evaluation": "runs/secret/evaluation",
        "runs": {"student": "runs/secret/student"},
    }  # fmt: skip
    for number, config in enumerate((student, evaluation, page)):
        path = write_config(tmp_path / f"{number}.yaml", config)
        command = config["command"] if isinstance(config, dict) else config.command
        assert cli.main([command, "-v", str(path)]) == 0
        assert cli.main(["check", "-v", str(path)]) == 0
    folder = tiny_root / "runs" / "secret"
    written = {path.name for path in folder.rglob("*")}
    assert {"config.json", "environment.json", "metrics.jsonl", "summary.json"} <= written
    assert {"results.json", "report.html"} <= written
    assert files_with_the_key(folder) == []
    output = capfd.readouterr()
    assert KEY not in output.out + output.err + caplog.text


def test_the_description_of_the_environment_is_not_the_environment(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, KEY)
    assert KEY not in repr(environment())


def test_the_search_for_the_key_can_fail(tmp_path):
    (tmp_path / "log").write_text(f"token={KEY}")
    assert files_with_the_key(tmp_path) == [tmp_path / "log"]
