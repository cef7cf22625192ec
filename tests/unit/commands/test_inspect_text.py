"""`kd-ray inspect` where teachers read text: what it shows is what the source answers."""

from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
import tiny

from kd_ray.commands.check import check
from kd_ray.commands.infer_teachers import infer_teachers
from kd_ray.commands.inspect import inspect
from kd_ray.commands.selftest import selftest
from kd_ray.config.commands import InferTeachersConfig
from kd_ray.config.load import ConfigError, check_as
from kd_ray.config.sources import PoolSource
from kd_ray.core.trust import TrustError
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.speech.manifest import ManifestError, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens

STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}


@pytest.fixture(scope="module")
def experts(tiny_root):
    """Two experts; `data/read.parquet` has phones as transcripts, and one row without any."""
    rows = [
        replace(row, transcript=row.phones, phones=row.phones)
        for row in read_manifest(tiny_root / "data" / "valid.parquet")
    ]
    rows[1] = replace(rows[1], transcript=None)
    # Nobody hears this one.
    rows[2] = replace(rows[2], audio=None, duration_s=None)
    write_manifest(tiny_root / "data" / "read.parquet", rows)
    return tiny.make_experts(tiny_root)


def config_of(experts, **overrides):
    options = {
        "model": STUDENT,
        "distillation": {"preset": "word_kd"},
        "teachers__reads": "transcript",
        "teachers__strategy": {"type": "weighted", "trust": "teacher_forced"},
        "data__valid": "data/read.parquet",
        **overrides,
    }
    return tiny.distill_config("inspected-text", experts, **options)


def test_experts_are_shown_with_what_they_read_and_say(tiny_root, experts, capsys):
    found = inspect(config_of(experts), "valid-0", tiny_root, student=experts[1])
    tokens = Tokens.load(tiny_root / "data" / "tokens.json")
    assert found.source_text == found.reference
    assert [view.name for view in found.teachers] == ["e0", "e1"]
    for view in found.teachers:
        assert (view.ctc, view.ctc_errors, view.weight_labels) == (None, None, 0.0)
        assert len(view.along_reference.split()) == len(found.reference.split()) + 1
        symbols = view.along_reference.split()
        end = symbols.index("<eos>") if "<eos>" in symbols else len(symbols)
        assert view.said == tokens.decode(tokens.encode(" ".join(
            symbol for symbol in symbols[:end] if symbol not in ("<blank>", "<bos>")
        )))  # fmt: skip
        chrf = sacrebleu.sentence_chrf(view.said, [found.reference]).score
        assert view.chrf_error == pytest.approx(1 - chrf / 100, abs=1e-6)
    rates = np.array([100 * view.chrf_error for view in found.teachers])
    expected = np.exp(-0.1 * rates) / np.exp(-0.1 * rates).sum()
    assert [view.weight_tokens for view in found.teachers] == pytest.approx(expected, abs=1e-4)
    assert found.strings == ()
    assert len(found.target.split()) == len(found.reference.split()) + 1
    # The student is the second expert: a text student reads the source column.
    assert found.student is not None
    assert set(found.student) == {"attention"}
    printed = capsys.readouterr().out
    assert f"teachers read  {found.source_text}" in printed
    assert "teacher_forced_chrf" in printed
    assert "1 - chrF" in printed
    assert "ctc" not in printed


def test_text_teachers_need_no_audio_but_their_text(tiny_root, experts):
    config = config_of(experts)
    silent = inspect(config, "valid-2", tiny_root)
    assert silent.student is None
    assert len(silent.teachers) == 2
    with pytest.raises(ManifestError, match="'valid-1' has no transcript, which the teachers"):
        inspect(config, "valid-1", tiny_root)


def test_what_the_recogniser_hears_is_what_experts_read(tiny_root, experts):
    recognizer = {"system": "teachers/t0", "decoding": "ctc"}
    config = config_of(
        experts, teachers__reads="asr_transcript", teachers__recognizer=recognizer,
        teachers__strategy={"type": "average"}, distillation={"preset": "kd_transcripts"},
    )  # fmt: skip
    found = inspect(config, "valid-0", tiny_root)
    heard = inspect(
        tiny.distill_config("inspected-speech", "teachers.txt"), "valid-0", tiny_root
    ).teachers[0].ctc  # fmt: skip
    assert found.source_text == heard
    assert found.source_text != found.reference
    assert [view.weight_tokens for view in found.teachers] == [0.5, 0.5]


def test_a_strategy_that_the_run_would_refuse_is_refused_here(tiny_root, experts):
    rollouts = config_of(experts, distillation={"preset": "imitkd_full"})
    with pytest.raises(TrustError, match="the student's own prefix"):
        inspect(rollouts, "valid-0", tiny_root)


def test_experts_cannot_fill_a_store_and_nothing_is_started_for_it(tiny_root, experts, monkeypatch):
    monkeypatch.setattr(
        "kd_ray.commands.infer_teachers.ensure_ray", lambda **_: pytest.fail("Ray was started")
    )
    content = {
        "command": "infer-teachers",
        "store": "store-of-experts",
        "teachers": experts,
        "splits": {"train": "data/train.parquet"},
        "tokens": "data/tokens.json",
    }
    config = check_as(InferTeachersConfig, content, "test")
    with pytest.raises(UnusableSystem, match=r"e0, e1 read text.*teachers\.source local or pool"):
        infer_teachers(config, tiny_root)
    assert not (tiny_root / "store-of-experts").exists()
    assert any("e0, e1 read text" in problem for problem in check(config, tiny_root).problems)


def test_a_pool_without_a_list_is_told_what_is_missing(tiny_root, experts):
    config = config_of(experts)
    teachers = config.teachers.model_copy(update={"list": None, "source": PoolSource(name="p")})
    config = config.model_copy(update={"teachers": teachers})
    with pytest.raises(ConfigError, match=r"teachers\.list is missing"):
        inspect(config, "valid-0", tiny_root)
    with pytest.raises(ConfigError, match=r"teachers\.list is missing"):
        selftest(config, tiny_root)
