"""Systems of all kinds, and whole evaluations with them, on the tiny corpus."""

import json

import pytest
import sacrebleu
import torch
from evaluation_doubles import ENGLISH, make_translators

from kd_ray.commands.compare import compare
from kd_ray.commands.decode import decode
from kd_ray.commands.evaluate import evaluate
from kd_ray.commands.report import report
from kd_ray.config.evaluation import (
    CascadeSystem,
    CompareConfig,
    DecodeConfig,
    EvaluateConfig,
    ReportConfig,
)
from kd_ray.config.load import ConfigError, check_as
from kd_ray.evaluation.cascade import Cascade, load_any
from kd_ray.evaluation.decode import Search
from kd_ray.evaluation.score import real_time_factor
from kd_ray.evaluation.system import UnusableSystem, load_system
from kd_ray.speech.manifest import read_manifest

SYSTEMS = {
    "students": {"nll": "st/student", "distilled": "st/other"},
    "experts": {"expert": "st/expert"},
    "cascades": {"asr+mt": {"asr": "st/recogniser", "mt": "st/expert"}},
}


@pytest.fixture(scope="session")
def st_root(tiny_root):
    make_translators(tiny_root)
    return tiny_root


def evaluation(name, **changes):
    content = {
        "command": "evaluate",
        "name": name,
        "systems": SYSTEMS,
        "splits": {"test": "data/st.parquet"},
        "column": "translation",
        "max_tokens": 12,
        "speed_utterances": 1,
    }
    return check_as(EvaluateConfig, {**content, **changes}, "test")


def rows_of(root, name, label):
    path = root / "runs" / name / "hypotheses" / "test" / f"{label}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("folder", ["st/student", "st/expert"])
def test_a_system_writes_the_same_alone_and_in_a_batch(st_root, folder):
    system = load_system(st_root / folder)
    rows = read_manifest(st_root / "data" / "st.parquet")
    inputs = system.read_inputs(rows, st_root)
    search = Search(("attention", "beam"), beam_size=3, max_tokens=15)
    together = system.decode_inputs(inputs, [row.id for row in rows], search)
    for row, given, hypothesis in zip(rows, inputs, together, strict=True):
        assert system.decode_inputs([given], [row.id], search) == [hypothesis]
        assert len(hypothesis.by("beam")) <= 15


def test_inputs_are_encoded_from_speech_or_from_the_named_column(st_root):
    rows = read_manifest(st_root / "data" / "st.parquet")[:2]
    heard = load_system(st_root / "st/student").encode_inputs(rows, st_root)
    assert heard.states.shape[0] == 2
    gold = load_system(st_root / "st/expert")
    noisy = load_system(st_root / "st/expert", reads_column="asr_transcript")
    assert gold.read_inputs(rows, st_root) == ENGLISH[:2]
    assert noisy.read_inputs(rows, st_root) == ENGLISH[1:3]
    # One state for each character, one for the end of the sentence.
    assert gold.encode_inputs(rows, st_root).lengths.tolist() == [10, 13]
    torch.testing.assert_close(
        gold.encode_inputs(rows, st_root).states, gold.encode_texts(ENGLISH[:2]).states
    )


def test_an_empty_text_has_an_empty_hypothesis(st_root):
    system = load_system(st_root / "st/expert")
    found = system.decode_inputs(["", "yes", " "], ["a", "b", "c"], Search(max_tokens=5))
    assert [each.utterance_id for each in found] == ["a", "b", "c"]
    assert found[0].attention == found[2].attention == ()
    assert found[1] == system.decode_inputs(["yes"], ["b"], Search(max_tokens=5))[0]


def test_what_a_system_cannot_do_is_said(st_root):
    rows = read_manifest(st_root / "data" / "st.parquet")
    student, expert = load_system(st_root / "st/student"), load_system(st_root / "st/expert")
    with pytest.raises(UnusableSystem, match="no CTC head"):
        student.require("ctc")
    with pytest.raises(UnusableSystem, match="reads speech, not text"):
        student.encode_texts(["a"])
    with pytest.raises(UnusableSystem, match="reads text, not speech"):
        expert.encode_waveforms([])
    with pytest.raises(UnusableSystem, match="cannot read a text: unknown characters: 'q'"):
        expert.encode_texts(["q"])
    lost = load_system(st_root / "st/expert", reads_column="nowhere")
    with pytest.raises(UnusableSystem, match="6 of 6 utterances have no nowhere"):
        lost.read_inputs(rows, st_root)
    with pytest.raises(UnusableSystem, match=r"expert reads text.*recogniser reads speech"):
        Cascade(expert, load_system(st_root / "st/recogniser"))


def test_a_cascade_is_its_recogniser_then_its_translator(st_root):
    place = CascadeSystem(asr="st/recogniser", mt="st/expert")
    cascade = load_any(place, st_root)
    asr, mt = load_system(st_root / "st/recogniser"), load_system(st_root / "st/expert")
    assert cascade.parameters == asr.parameters + mt.parameters
    assert cascade.bytes == asr.bytes + mt.bytes
    assert cascade.tokens == mt.tokens
    rows = read_manifest(st_root / "data" / "st.parquet")
    ids = [row.id for row in rows]
    inputs = cascade.read_inputs(rows, st_root)
    search = Search(("beam",), beam_size=2, max_tokens=9)
    found = cascade.decode_inputs(inputs, ids, search)
    heard = [asr.tokens.decode(each.attention) for each in asr.decode_inputs(inputs, ids, Search())]
    assert [each.transcript for each in found] == heard
    translated = mt.decode_inputs(heard, ids, search)
    assert [each.ids for each in found] == [each.ids for each in translated]


def test_the_speed_of_a_text_reader_is_per_second_of_its_speech(st_root):
    from dataclasses import replace

    expert = load_system(st_root / "st/expert")
    rows = read_manifest(st_root / "data" / "st.parquet")[:1]
    search = Search(max_tokens=3)
    factor = real_time_factor(expert, rows, st_root, search)
    assert factor is not None
    assert factor > 0
    assert real_time_factor(expert, [replace(rows[0], duration_s=None)], st_root, search) is None


def test_an_evaluation_of_translations_is_made_from_its_hypotheses(st_root):
    found = evaluate(evaluation("st-evaluation", decoding="beam", beam_size=2), st_root)
    assert json.loads((st_root / "runs/st-evaluation/results.json").read_text()) == found
    assert [(system["kind"], system["label"]) for system in found["systems"]] == [
        ("student", "nll"),
        ("student", "distilled"),
        ("expert", "expert"),
        ("cascade", "asr+mt"),
    ]
    assert found["family"] == "translation"
    assert found["beam_size"] == 2
    assert "tok:13a" in found["signatures"]["bleu"]
    for system in found["systems"]:
        rows = rows_of(st_root, "st-evaluation", system["label"])
        texts = [row["hypothesis"] for row in rows]
        references = [[row["reference"] for row in rows]]
        scores = system["scores"]["test"]
        assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
        assert scores["ter"] == pytest.approx(sacrebleu.corpus_ter(texts, references).score)
        assert system["real_time_factor"] > 0
        assert ("heard" in rows[0]) == (system["kind"] == "cascade")
    cascade = found["systems"][3]
    assert cascade["scores"]["test"]["transcript_word_error_rate"] > 0
    assert cascade["asr_folder"] == "st/recogniser"
    assert cascade["folder"] == "st/expert"


def test_a_second_evaluation_finds_its_translations(st_root, monkeypatch):
    config = evaluation("st-twice")
    first = evaluate(config, st_root)
    monkeypatch.setattr(
        "kd_ray.commands.evaluate.score_translations",
        lambda *arguments, **options: pytest.fail("decoded again"),
    )
    assert evaluate(config, st_root) == first


def test_error_rates_of_systems_without_ctc_head(st_root):
    tokens = load_system(st_root / "st/recogniser").tokens
    tokens.save(st_root / "data" / "english.json")
    systems = {"students": {"asr": "st/recogniser"}}
    changes = {"systems": systems, "tokens": "data/english.json", "column": "transcript"}
    found = evaluate(evaluation("st-asr", decoding="beam", beam_size=2, **changes), st_root)
    scores = found["systems"][0]["scores"]["test"]
    assert list(scores) == ["attention", "beam"]
    rows = rows_of(st_root, "st-asr", "asr")
    assert sum(row["beam_errors"] for row in rows) == sum(
        scores["beam"][part] for part in ("substitutions", "insertions", "deletions")
    )
    with pytest.raises(UnusableSystem, match="no CTC head"):
        evaluate(evaluation("st-asr-ctc", decoding="ctc", **changes), st_root)


def test_experts_must_read_text(st_root):
    systems = {"experts": {"deaf": "st/student"}}
    with pytest.raises(UnusableSystem, match=r"deaf .* reads speech, and experts read text"):
        evaluate(evaluation("st-deaf", systems=systems), st_root)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tokens": "data/tokens.json"}, "leave tokens out"),
        ({"column": "transcript"}, "needs tokens"),
        (
            {"column": "transcript", "tokens": "t.json", "protocol": "reference"},
            "is for column: translation only",
        ),
        ({"systems": {}}, "systems must name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        evaluation("refused", **changes)


def test_decode_takes_every_kind_of_system(st_root):
    base = {"command": "decode", "manifest": "data/st.parquet", "max_tokens": 8}
    cascade = {"asr": "st/recogniser", "mt": "st/expert"}
    beams = {"decoding": "beam", "beam_size": 2}
    rows = decode(check_as(DecodeConfig, {**base, **beams, "system": cascade}, "t"), st_root)
    assert [row["id"] for row in rows] == [f"valid-{number}" for number in range(6)]
    assert all(set(row) == {"id", "hypothesis", "transcript"} for row in rows)
    texts = decode(check_as(DecodeConfig, {**base, "system": "st/expert"}, "t"), st_root)
    assert all(set(row) == {"id", "hypothesis"} for row in texts)


def test_report_and_comparison_of_a_real_evaluation(st_root, capsys):
    evaluate(evaluation("st-shown"), st_root)
    page = report(
        check_as(
            ReportConfig,
            {"command": "report", "name": "st-report", "title": "T", "evaluation": "runs/st-shown"},
            "t",
        ),
        st_root,
    )
    assert "chrF++" in page.read_text()
    assert "asr+mt" in capsys.readouterr().out
    config = {
        "command": "compare",
        "name": "st-compare",
        "evaluation": "runs/st-shown",
        "system": "asr+mt",
        "baseline": "nll",
        "resamples": 50,
    }
    found = compare(check_as(CompareConfig, config, "t"), st_root)
    assert found.utterances == found.better + found.equal + found.worse == 6
    folder = st_root / "runs" / "st-compare"
    assert sorted(path.suffix for path in folder.iterdir()) == [".html", ".json", ".md"]
