"""Requests for trust alone: a few numbers for each utterance and teacher, and nothing else."""

import asyncio
import dataclasses

import numpy as np
import pytest
from doubles import FakeTeacher, request

from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Audio, Fusion, Labels, Score
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers import teacher as teacher_module
from kd_ray.teachers.answers import check_request
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.teacher import load_teachers

MIB = 1 << 20


def trust_only(one):
    return dataclasses.replace(one, wanted=frozenset({"trust"}), per_teacher=True)


def answers(host, *requests):
    async def ask():
        try:
            return await asyncio.gather(*[host.answer(one) for one in requests])
        finally:
            await host.close()

    return asyncio.run(ask())


def array_bytes(value):
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, tuple):
        return sum(map(array_bytes, value))
    if dataclasses.is_dataclass(value):
        return sum(array_bytes(getattr(value, each.name)) for each in dataclasses.fields(value))
    return 0


def test_trust_is_what_a_whole_answer_says_and_takes_few_bytes():
    seeds = (1, 2, 3)
    one = request(4, rows=20)
    (whole,) = answers(TeacherHost([FakeTeacher(seed) for seed in seeds]),
                       dataclasses.replace(one, per_teacher=True))  # fmt: skip
    (alone,) = answers(TeacherHost([FakeTeacher(seed) for seed in seeds]), trust_only(one))
    for mine, expected in zip(alone.outputs, whole.outputs, strict=True):
        assert mine.teacher == expected.teacher
        for name in ("ctc_errors", "decoder_errors", "confidence", "reference_lengths"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(expected, name))
        assert mine.log_probs is None
        assert mine.strings == ()
    assert alone.partial.choice is None
    assert alone.partial.probabilities is None
    each = len(seeds) * len(one.utterance_ids)
    assert array_bytes(alone.partial) / each < 50
    assert array_bytes(alone.outputs) / each < 50
    assert array_bytes(whole.partial) > 4 * array_bytes(alone.partial)


def test_a_signal_of_trust_has_no_targets():
    source = LocalSource([FakeTeacher(seed) for seed in (1, 2)])
    one = trust_only(request(5))
    signal = source.ask(one).result(10)
    source.close()
    assert signal.tokens is None
    assert signal.labels is None
    assert signal.answered == (0, 1)
    assert (signal.ctc_errors >= 0).all()
    np.testing.assert_array_equal(signal.reference_lengths, one.references.lengths)


def test_what_was_computed_for_targets_answers_for_trust_too():
    teachers = [FakeTeacher(seed) for seed in (1, 2)]
    host = TeacherHost(teachers, memory=Memory(MIB))
    one = request(6, rows=4)

    async def ask():
        first = await host.answer(one)
        again = await host.answer(trust_only(one))
        await host.close()
        return first, again

    first, again = asyncio.run(ask())
    assert [len(teacher.batch_sizes) for teacher in teachers] == [1, 1]
    assert again.known_rows == 2 * 4
    np.testing.assert_array_equal(again.partial.ctc_errors, first.partial.ctc_errors)


def test_trust_along_nothing_is_refused():
    with pytest.raises(ValueError, match="needs a prefix or references"):
        check_request(trust_only(request(1, references=False)), 3)


def test_the_edit_distances_of_a_pass_are_one_call_a_head(tiny_root, monkeypatch):
    """Whatever the number of requests and utterances that share the pass."""
    tokens = Tokens.load(tiny_root / "data" / "tokens.json")
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    calls = []
    plain = teacher_module.edit_errors

    def counted(references, hypotheses):
        calls.append(len(references))
        return plain(references, hypotheses)

    monkeypatch.setattr(teacher_module, "edit_errors", counted)
    requests = [
        Score(
            utterance_ids=tuple(row.id for row in part),
            audio=Audio.of([read_waveform(row, tiny_root) for row in part]),
            references=Labels.of([tokens.encode(row.phones) for row in part]),
            fusion=Fusion(Average()),
            wanted=frozenset({"trust"}),
        )
        for part in (rows[:2], rows[2:3], rows[3:])
    ]
    [teacher] = load_teachers([tiny_root / "teachers" / "t0"])
    host = TeacherHost([teacher], batch_wait_ms=2000)
    found = answers(host, *requests)
    # The first request finds the host idle and goes alone; the others wait for each other.
    assert sum(calls) == 2 * len(rows)
    assert len(calls) <= 4
    errors = np.concatenate([answer.partial.ctc_errors[0] for answer in found])
    assert (errors >= 0).all()
    assert len(errors) == len(rows)
