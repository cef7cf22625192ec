"""Commands as functions, on the tiny corpus, without Ray."""

import json
from dataclasses import replace

import pytest
import soundfile
import tiny
from yaml_files import write_config

from kd_ray import cli
from kd_ray.commands.check import check
from kd_ray.commands.decode import decode
from kd_ray.commands.evaluate import _strategy, evaluate
from kd_ray.commands.inspect import inspect
from kd_ray.commands.prepare import UnusableCorpus, prepare
from kd_ray.commands.train_teachers import teacher_configs
from kd_ray.config.commands import PrepareConfig, TrainTeachersConfig
from kd_ray.config.evaluation import DecodeConfig, EvaluateConfig
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.load import check as check_config
from kd_ray.evaluation.run_folder import RunFolderError
from kd_ray.evaluation.system import UnusableSystem, read_teacher_list
from kd_ray.report.results import read_hypotheses, read_results
from kd_ray.speech.manifest import ManifestError, Utterance, read_manifest, write_manifest


def evaluation(name, **changes):
    content = {
        "command": "evaluate",
        "name": name,
        "systems": {"teachers": "teachers.txt", "students": {"again": "teachers/t0"}},
        "splits": {"valid": "data/valid.parquet"},
        "tokens": "data/tokens.json",
        "speed_utterances": 1,
    }
    return check_as(EvaluateConfig, {**content, **changes}, "test")


def test_evaluation_writes_counts_that_agree_with_every_hypothesis(tiny_root):
    results = evaluate(evaluation("evaluation"), tiny_root)
    folder = tiny_root / "runs" / "evaluation"
    assert json.loads((folder / "results.json").read_text()) == results
    assert [system["label"] for system in results["systems"]] == ["t0", "t1", "t2", "again"]
    for system in results["systems"]:
        path = folder / "hypotheses" / "valid" / f"{system['label']}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for head in ("attention", "ctc"):
            score = system["scores"]["valid"][head]
            errors = sum(row[f"{head}_errors"] for row in rows)
            length = sum(len(row["reference"].split()) for row in rows)
            parts = ("substitutions", "insertions", "deletions")
            assert errors == sum(score[part] for part in parts)
            assert score["error_rate"] == pytest.approx(100 * errors / length)
        assert system["real_time_factor"] > 0
    first, again = results["systems"][0], results["systems"][3]
    assert first["scores"] == again["scores"]
    assert first["bytes"] == again["bytes"] > 0


def test_a_second_evaluation_finds_its_results(tiny_root, monkeypatch):
    config = evaluation("twice-evaluated")
    first = evaluate(config, tiny_root)
    monkeypatch.setattr(
        "kd_ray.commands.evaluate.score_split",
        lambda *arguments, **options: pytest.fail("decoded again"),
    )
    assert evaluate(config, tiny_root) == first


def test_an_evaluation_goes_on_in_other_batches_and_says_what_else_was_changed(tiny_root):
    config = evaluation("otherwise", batch_size=3)
    first = evaluate(config, tiny_root)
    again = config.model_copy(update={"batch_size": 2, "threads": 2})
    assert evaluate(again, tiny_root) == first
    made = json.loads((tiny_root / "runs" / "otherwise" / "config.json").read_text())
    assert (made["batch_size"], made["threads"]) == (2, 2)
    with pytest.raises(RunFolderError, match="beam_size: 5 before, 4 now"):
        evaluate(config.model_copy(update={"beam_size": 4}), tiny_root)


def test_an_evaluation_that_was_changed_and_changed_back_agrees_with_its_hypotheses(tiny_root):
    folder = tiny_root / "runs" / "there-and-back"
    students = {"students": {"again": "teachers/t0"}}
    results = []
    for decoding in ("beam", "attention", "beam"):
        config = evaluation("there-and-back", systems=students, decoding=decoding)
        results.append(evaluate(config, tiny_root))
        (folder / "config.json").unlink()
    assert results[0]["systems"][0]["scores"] == results[2]["systems"][0]["scores"]
    hypotheses = read_hypotheses(folder, read_results(folder))
    assert hypotheses is not None
    assert hypotheses.decoding == "beam"


def test_labels_that_would_share_a_file_of_hypotheses_are_refused(tiny_root):
    students = {"students": {"mine/best": "teachers/t0", "mine-best": "teachers/t1"}}
    with pytest.raises(UnusableSystem, match="mine/best, mine-best would have one file"):
        evaluate(evaluation("shared-file", systems=students), tiny_root)


def test_a_student_in_the_middle_of_an_exchange_is_still_a_distilled_one(tmp_path):
    for name in ("model", ".model.previous", "copied"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text('{"teachers": {"strategy": {"type": "best"}}}')
    assert _strategy(tmp_path / "model") == _strategy(tmp_path / ".model.previous") == "best"
    assert _strategy(tmp_path / "copied") is None


def test_systems_of_other_tokens_are_refused(tiny_root):
    tokens = tiny.Tokens.train(["x y"], "phones")
    tokens.save(tiny_root / "data" / "other.json")
    with pytest.raises(UnusableSystem, match="writes other tokens"):
        evaluate(evaluation("other-tokens", tokens="data/other.json"), tiny_root)


def test_decoding_a_file_equals_decoding_its_row(tiny_root):
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    config = {"command": "decode", "system": "teachers/t0", "decoding": "ctc"}
    by_row = decode(
        check_as(
            DecodeConfig, {**config, "manifest": "data/valid.parquet", "output": "h.jsonl"}, "t"
        ),
        tiny_root,
    )
    by_file = decode(check_as(DecodeConfig, {**config, "audio": [rows[0].audio]}, "t"), tiny_root)
    assert by_file[0]["hypothesis"] == by_row[0]["hypothesis"]
    written = [json.loads(line) for line in (tiny_root / "h.jsonl").read_text().splitlines()]
    assert written == by_row


def test_inspection_shows_weights_that_add_up_and_the_target(tiny_root):
    config = tiny.distill_config(
        "inspected", "teachers.txt", teachers__strategy={"type": "weighted"}
    )
    found = inspect(config, "train-3", tiny_root, student="teachers/t1")
    assert [view.name for view in found.teachers] == ["t0", "t1", "t2"]
    assert sum(view.weight_tokens for view in found.teachers) == pytest.approx(1, abs=1e-5)
    assert sum(view.weight_labels for view in found.teachers) == pytest.approx(1, abs=1e-5)
    assert sum(weight for _, weight in found.strings) == pytest.approx(1, abs=1e-5)
    assert len(found.target.split()) == len(found.reference.split()) + 1
    assert found.student is not None
    assert found.student["ctc"] == found.teachers[1].ctc


def test_inspecting_an_unknown_utterance_says_where_was_looked(tiny_root):
    config = tiny.distill_config("inspected", "teachers.txt")
    with pytest.raises(ManifestError, match=r"'nobody' in data/train\.parquet, data/valid"):
        inspect(config, "nobody", tiny_root)


def test_check_of_a_good_distillation_estimates_store_and_object_store(tiny_root):
    found = check(tiny.distill_config("checked", "teachers.txt"), tiny_root)
    assert found.ok, found.problems
    assert any("a store of these 3 teachers" in note for note in found.notes)
    assert any("of the object store" in note for note in found.notes)


def test_check_lists_every_problem_at_once(tiny_root):
    config = tiny.distill_config(
        "checked",
        "missing.txt",
        data__valid="nowhere.parquet",
        data__tokens="data/valid.parquet",
        training__init_encoder_from="teachers/none",
        workers__gpus=64,
    )
    found = check(config, tiny_root)
    text = "\n".join(found.problems)
    for part in ("missing.txt", "nowhere.parquet", "valid.parquet", "teachers/none", "64 GPUs"):
        assert part in text
    assert not found.ok


def test_check_finds_a_vocabulary_that_does_not_fit(tiny_root):
    tiny.Tokens.train([" ".join([*tiny.PHONES, "zz"])], "phones").save(
        tiny_root / "data" / "zz.json"
    )
    found = check(
        tiny.distill_config("checked", "teachers.txt", data__tokens="data/zz.json"), tiny_root
    )
    assert "teacher t0: vocabulary size is 11, student's is 12" in "\n".join(found.problems)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["teachers/t0", "teachers/nobody"], r"line 2: teachers/nobody does not exist"),
        (
            ["teachers/t0", "# t0 again", "teachers/t*"],
            r"line 3: .*t0 is already named",
        ),
        (["", "# nothing"], "names no teacher"),
    ],
)
def test_bad_teacher_lists_are_named_by_line(tiny_root, tmp_path, lines, match):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(UnusableSystem, match=match):
        read_teacher_list(str(path), tiny_root)


def test_teacher_lists_take_globs_comments_and_blank_lines(tiny_root, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# all\n\nteachers/t*   # three\n")
    assert [each.name for each in read_teacher_list(str(path), tiny_root)] == ["t0", "t1", "t2"]


def test_every_teacher_with_a_wrong_override_is_named():
    base = tiny.train_config("base").model_dump(mode="json")
    teachers = [
        {"name": "good"},
        {"name": "a", "overrides": {"model.encoder.rnn_sizes": 3}},
        {"name": "b", "overrides": {"training.epochs": 0}},
    ]
    config = check_as(
        TrainTeachersConfig,
        {"command": "train-teachers", "name": "x", "base": base, "teachers": teachers},
        "test",
    )
    with pytest.raises(ConfigError) as caught:
        teacher_configs(config)
    assert "teacher a" in str(caught.value)
    assert "did you mean 'rnn_size'" in str(caught.value)
    assert "teacher b" in str(caught.value)
    assert "good" not in str(caught.value)


def own_corpus(root, name, rows, **changes):
    write_manifest(root / f"{name}-train.parquet", rows)
    write_manifest(root / f"{name}-valid.parquet", rows[:1])
    corpus = {
        "type": "manifest",
        "train": f"{name}-train.parquet",
        "valid": f"{name}-valid.parquet",
    }
    content = {"command": "prepare", "folder": f"prepared/{name}", "corpus": corpus, **changes}
    return check_as(PrepareConfig, content, "test")


def bad_rows(root):
    good = read_manifest(root / "data" / "train.parquet")[:3]
    soundfile.write(root / "short.wav", [0.0] * 160, 16_000)
    (root / "broken.flac").write_bytes(b"not audio")
    return [
        *good,
        Utterance(id="gone", audio="gone.flac", duration_s=1.0, phones="a"),
        Utterance(id="broken", audio="broken.flac", duration_s=1.0, phones="a"),
        Utterance(id="short", audio="short.wav", duration_s=0.01, phones="a"),
        Utterance(id="mute", audio=good[0].audio, duration_s=good[0].duration_s, phones=""),
    ]


def test_prepare_reports_every_bad_row_in_one_error(tiny_root):
    with pytest.raises(UnusableCorpus) as caught:
        prepare(own_corpus(tiny_root, "bad", bad_rows(tiny_root)), tiny_root)
    for name in ("gone", "broken", "short", "mute"):
        assert name in str(caught.value)
    assert not (tiny_root / "prepared" / "bad" / "train.parquet").exists()


def test_prepare_can_leave_bad_rows_out(tiny_root):
    config = own_corpus(tiny_root, "skipped", bad_rows(tiny_root), on_bad_row="skip")
    prepared = prepare(config, tiny_root)
    assert prepared.rows == {"train": 3, "valid": 1}
    kept = read_manifest(prepared.manifests["train"])
    assert [row.id for row in kept] == ["train-0", "train-1", "train-2"]


def test_the_command_line_says_which_command_a_file_is_for(
    tiny_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KD_RAY_ROOT", str(tiny_root))
    path = write_config(tmp_path / "train.yaml", tiny.train_config("x"))
    assert cli.main(["distill", str(path)]) == 2
    assert "is a configuration for `kd-ray train`" in capsys.readouterr().err


def test_the_command_line_gives_user_errors_in_one_message(
    tiny_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KD_RAY_ROOT", str(tiny_root))
    path = write_config(tmp_path / "d.yaml", tiny.distill_config("x", "nothing.txt"))
    assert cli.main(["check", str(path)]) == 2
    assert cli.main(["distill", str(path), "training.epoch=3"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'epochs'" in error
    assert "Traceback" not in error


def test_a_run_name_cannot_leave_the_runs_folder():
    with pytest.raises(ConfigError, match="name"):
        check_config(
            {**tiny.train_config("x").model_dump(mode="json"), "name": "a/../../b"}, "test"
        )


def test_prepare_fills_missing_durations_from_the_files(tiny_root):
    rows = [
        replace(row, duration_s=None) for row in read_manifest(tiny_root / "data/train.parquet")
    ]
    prepared = prepare(own_corpus(tiny_root, "timed", rows[:3]), tiny_root)
    written = read_manifest(prepared.manifests["train"])
    known = read_manifest(tiny_root / "data" / "train.parquet")[:3]
    assert [row.duration_s for row in written] == [row.duration_s for row in known]


def test_utterances_without_text_are_not_evaluated_in_silence(tiny_root):
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    mute = [replace(rows[0], phones=None), *rows[1:]]
    write_manifest(tiny_root / "data" / "mute.parquet", mute)
    with pytest.raises(UnusableSystem, match=r"1 of 6 utterances have no phones.*valid-0"):
        evaluate(evaluation("mute", splits={"mute": "data/mute.parquet"}), tiny_root)
