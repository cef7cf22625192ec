"""What a text teacher is trusted by: sacrebleu's chrF of its argmax along the reference."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import sacrebleu
import tiny
import torch

from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.core.contracts import Audio, Fusion, Labels, Score
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.temporary import temporary_store

CHRF = frozenset({"tokens", "chrf"})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("text_trust")
    tiny.make_corpus(root)
    tiny.make_experts(root)
    return root


@pytest.fixture(scope="module")
def folders(root):
    return [root / "experts" / name for name in ("e0", "e1")]


@pytest.fixture(scope="module")
def tokens(root):
    return Tokens.load(root / "data" / "tokens.json")


def rows_of(root, count=6):
    return read_manifest(root / "data" / "train.parquet")[:count]


def asked(rows, tokens, strategy, *, wanted=CHRF):
    return Score(
        utterance_ids=tuple(row.id for row in rows),
        audio=Audio.of([]),
        texts=tuple(row.phones for row in rows),
        references=Labels.of([tokens.encode(row.phones) for row in rows]),
        fusion=Fusion(strategy),
        wanted=wanted,
        per_teacher=True,
    )


def expected_percent(output, references, tokens):
    """100 - sacrebleu's sentence chrF of the likeliest tokens, cut at the first end symbol."""
    percent = []
    for row, reference in enumerate(references.strings()):
        said = output.log_probs[row, : output.positions[row]].argmax(axis=-1).tolist()
        said = said[: said.index(tokens.eos)] if tokens.eos in said else said
        text = tokens.decode(reference)
        percent.append(100 - sacrebleu.sentence_chrf(tokens.decode(said), [text]).score)
    return percent


def test_along_references_it_is_one_minus_sacrebleu_s_chrf(root, folders, tokens):
    source = LocalSource(load_teachers(folders))
    request = asked(rows_of(root), tokens, Weighted(trust="teacher_forced_chrf"))
    signal = source.ask(request).result(60.0)
    source.close()
    percent = [expected_percent(each, request.references, tokens) for each in signal.outputs]
    assert len(np.unique(percent)) > 4
    np.testing.assert_allclose(signal.chrf_errors / 1e4, percent, atol=0.5e-4 + 1e-9)
    weights = [
        oracles.softmax([-0.1 * rate for rate in column]) for column in np.transpose(percent)
    ]
    np.testing.assert_allclose(signal.weights_tokens, np.array(weights).T, atol=1e-5)


def test_along_any_other_prefix_and_without_references_it_is_unknown(root, folders, tokens):
    [teacher, _] = load_teachers(folders)
    rows = rows_of(root, 3)
    references = Labels.of([tokens.encode(row.phones) for row in rows])
    other = Labels.of([references.strings()[0], [3], [4, 5]])
    inputs, lengths = teacher.reader([], [row.phones for row in rows])
    mixed = teacher.score(inputs, lengths, other, references, CHRF)
    assert (mixed.chrf_errors >= 0).tolist() == (mixed.decoder_errors >= 0).tolist()
    assert (mixed.chrf_errors < 0).tolist() == [False, True, True]
    assert teacher.score(inputs, lengths, other, None, CHRF).chrf_errors.tolist() == [-1] * 3
    unasked = teacher.score(inputs, lengths, other, references, frozenset({"tokens"}))
    assert unasked.chrf_errors is None


def test_an_empty_reference_is_met_by_saying_nothing(folders, tokens, monkeypatch):
    [teacher, _] = load_teachers(folders)
    nothing = Labels.of([[], []])
    inputs, lengths = teacher.reader([], ["a b", "k"])
    model = teacher.system.model

    def says(*tokens_said):
        def decoder_logits(encoded, ids, lengths):
            logits = torch.zeros(2, 1, len(tokens))
            logits[[0, 1], 0, list(tokens_said)] = 1.0
            return logits

        monkeypatch.setattr(model, "decoder_logits", decoder_logits)
        return teacher.score(inputs, lengths, nothing, nothing, CHRF)

    assert says(tokens.eos, 5).chrf_errors.tolist() == [0, 1_000_000]


def test_a_store_gives_the_same_trust_as_the_teachers_themselves(root, folders, tokens):
    rows = rows_of(root)
    where = {"root": root, "tokens": root / "data" / "tokens.json", "column": "phones"}
    local = LocalSource(load_teachers(folders))
    with temporary_store(folders, rows, reads="phones", **where) as store:
        for strategy in (Weighted(trust="teacher_forced_chrf"), Best(trust="teacher_forced_chrf")):
            request = asked(rows[::-1], tokens, strategy)
            mine, theirs = (source.ask(request).result(60.0) for source in (store, local))
            np.testing.assert_array_equal(mine.chrf_errors, theirs.chrf_errors)
            np.testing.assert_array_equal(mine.weights_tokens, theirs.weights_tokens)
    local.close()


def test_a_request_whose_trust_was_not_asked_for_is_refused(root, folders, tokens):
    source = LocalSource(load_teachers(folders))
    request = asked(rows_of(root), tokens, Best(trust="teacher_forced_chrf"))
    with pytest.raises(ValueError, match=r"request\.wanted lacks 'chrf'"):
        source.ask(replace(request, wanted=frozenset({"tokens"})))
    with pytest.raises(ValueError, match="holds 'chrf' alone"):
        source.ask(replace(request, wanted=frozenset({"chrf"})))
    source.close()


def test_one_that_hears_and_has_a_ctc_head_is_fused_with_one_that_reads(tiny_root):
    """Where nobody asks for label strings, it is no matter who could write some."""
    tiny.make_experts(tiny_root)
    folders = [tiny_root / "experts" / "e0", tiny_root / "teachers" / "t0"]
    rows = rows_of(tiny_root, 3)
    question = asked(rows, Tokens.load(tiny_root / "data" / "tokens.json"), Average(),
                     wanted=frozenset({"tokens"}))  # fmt: skip
    question = replace(question, audio=Audio.of([read_waveform(row, tiny_root) for row in rows]))
    alone = [answered(LocalSource(load_teachers([folder])), question) for folder in folders]
    found = answered(LocalSource(load_teachers(folders)), question)
    assert found.answered == (0, 1)
    assert found.labels is None
    probabilities = np.mean([np.exp(each.tokens.log_probs) for each in alone], axis=0)
    np.testing.assert_allclose(np.exp(found.tokens.log_probs), probabilities, atol=1e-6)


def answered(source, question):
    try:
        return source.ask(question).result(60)
    finally:
        source.close()
