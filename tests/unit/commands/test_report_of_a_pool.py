"""`kd-ray pool report` over teachers in this process."""

import json

import pytest
import tiny
from rapidfuzz.distance import Levenshtein

from kd_ray.commands.check import check
from kd_ray.commands.evaluate import evaluate
from kd_ray.commands.pool import pool
from kd_ray.commands.pool_report import pool_report
from kd_ray.config.evaluation import EvaluateConfig
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.pool import PoolConfig
from kd_ray.core.contracts import Labels
from kd_ray.core.handshake import HandshakeError
from kd_ray.core.trust import TrustError
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.requests import strategy_of
from kd_ray.teachers.teacher import load_teachers


def config(name, **report):
    section = {
        "name": name,
        "split": "valid",
        "manifest": "data/valid.parquet",
        "tokens": "data/tokens.json",
        "source": "local",
        "resamples": 50,
        "batch_size": 2,
        "in_flight": 2,
        **report,
    }
    content = {
        "command": "pool",
        "name": "p",
        "teachers": {"list": "teachers.txt"},
        "report": section,
    }
    return check_as(PoolConfig, content, "test")


def ctc_rates(root):
    """Each teacher's error rate on the validation split, utterance by utterance."""
    tokens = Tokens.load(root / "data" / "tokens.json")
    rows = read_manifest(root / "data" / "valid.parquet")
    rates = []
    for teacher in load_teachers([root / "teachers" / f"t{number}" for number in range(3)]):
        errors = units = 0
        for row in rows:
            labels = Labels.of([tokens.encode(row.phones)])
            inputs, lengths = teacher.reader([read_waveform(row, root)], None)
            output = teacher.score(inputs, lengths, labels, labels, frozenset({"labels"}))
            errors += Levenshtein.distance(labels.ids[0].tolist(), output.strings[0].tolist())
            units += int(labels.lengths[0])
        rates.append(100 * errors / units)
    return rates


def test_the_table_is_the_one_that_evaluate_makes_and_a_strategy_reads_it(tiny_root, capsys):
    pool(config("trust"), tiny_root, "report")
    assert "chosen in hindsight" in capsys.readouterr().out
    folder = tiny_root / "runs" / "trust"
    made = json.loads((folder / "trust" / "valid.json").read_text())
    evaluated = EvaluateConfig.model_validate(
        {
            "command": "evaluate",
            "name": "eval-for-trust",
            "systems": {"teachers": "teachers.txt"},
            "splits": {"valid": "data/valid.parquet"},
            "tokens": "data/tokens.json",
            "decoding": "ctc",
            "speed_utterances": 0,
        }
    )
    evaluate(evaluated, tiny_root)
    expected = json.loads(
        (tiny_root / "runs" / "eval-for-trust" / "trust" / "valid.json").read_text()
    )
    # Of random teachers, texts lack the special symbols that label strings may hold.
    rates = made["error_percent"]
    assert made == {**expected, "error_percent": rates}
    assert rates == pytest.approx(ctc_rates(tiny_root))
    for name in ("report.html", "report.json", "groups.csv", "summary.json", "config.json"):
        assert (folder / name).stat().st_size > 0
    strategy = {"type": "best", "scope": "corpus", "table": "runs/trust/trust/valid.json"}
    distill = tiny.distill_config("unused", "teachers.txt", teachers__strategy=strategy)
    folders = [tiny_root / "teachers" / f"t{number}" for number in range(3)]
    infos = [teacher.info for teacher in load_teachers(folders)]
    resolved = strategy_of(distill, infos, tiny_root)
    assert list(resolved.table.error_percent) == rates


def test_teacher_forced_errors_and_groups_by_length(tiny_root):
    found = pool_report(
        config("forced", trust="teacher_forced", groups=["duration"], buckets=2), tiny_root
    )
    assert found.measure == "teacher-forced error rate"
    assert list(found.groups) == ["duration"]
    assert sum(group.utterances for group in found.groups["duration"]) == 6
    assert set(found.teachers[0].also) == {"ctc_greedy"}


def test_text_teachers_are_trusted_by_chrf(tiny_root):
    if not (tiny_root / "experts").exists():
        tiny.make_experts(tiny_root)
    content = config("experts", reads="phones").model_dump()
    content["teachers"] = {"list": ["experts/e0", "experts/e1"]}
    experts = check_as(PoolConfig, content, "test")
    found = pool_report(experts, tiny_root)
    assert found.trust == "teacher_forced_chrf"
    assert found.table.measure == "teacher-forced 1 - chrF"
    assert all(0 <= rate <= 100 for rate in found.table.error_percent)
    content["report"] |= {"name": "experts-ctc", "trust": "ctc_greedy"}
    with pytest.raises(ConfigError, match="e0, e1 have no CTC head"):
        pool_report(check_as(PoolConfig, content, "test"), tiny_root)
    content["report"] |= {"name": "experts-deaf", "trust": None, "reads": None}
    with pytest.raises(HandshakeError, match="e0 reads text"):
        pool_report(check_as(PoolConfig, content, "test"), tiny_root)


def test_what_is_missing_is_said_before_anything_is_asked(tiny_root):
    plain = config("none").model_copy(update={"report": None})
    with pytest.raises(ConfigError, match="needs a section `report`"):
        pool_report(plain, tiny_root)
    found = check(config("bad", groups=["accent"], tokens="data/none.json"), tiny_root)
    assert any("no values in a column 'accent'" in problem for problem in found.problems)
    assert any("none.json" in problem for problem in found.problems)
    with pytest.raises(ConfigError, match="makes the table that scope 'corpus' reads"):
        config("batch", strategies=[{"type": "best", "scope": "batch"}])


def test_a_table_that_is_not_there_names_both_ways_to_make_one(tiny_root):
    strategy = {"type": "best", "scope": "corpus", "table": "runs/nothing.json"}
    distill = tiny.distill_config("unused", "teachers.txt", teachers__strategy=strategy)
    with pytest.raises(TrustError, match="kd-ray pool report"):
        strategy_of(distill, [load_teachers([tiny_root / "teachers" / "t0"])[0].info], tiny_root)
