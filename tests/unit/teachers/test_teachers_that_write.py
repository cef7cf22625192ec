"""Teachers that write: what comes back is what the models write by themselves."""

import asyncio

import numpy as np
import pytest
import tiny
import torch
from doubles import FakeTeacher, request, writing_request

from kd_ray.core.contracts import Audio, Generate, Labels, TeachersGone, Writing
from kd_ray.core.written import best_of
from kd_ray.evaluation.decode import Search
from kd_ray.models.decoding import attention_beam, attention_greedy
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.temporary import temporary_store

ROWS = 5


@pytest.fixture(scope="module")
def rows(tiny_root):
    return read_manifest(tiny_root / "data/train.parquet")[:ROWS]


@pytest.fixture(scope="module")
def folders(tiny_root):
    experts = tiny.make_experts(tiny_root)
    return {
        "speech": [tiny_root / f"teachers/t{number}" for number in range(3)],
        "text": [tiny_root / folder for folder in experts],
    }


def ask(teachers, one):
    source = LocalSource(teachers)
    try:
        return source.ask(one).result(60.0)
    finally:
        source.close()


def about(rows, root, **changes):
    return Generate(
        utterance_ids=tuple(row.id for row in rows),
        audio=Audio.of([read_waveform(row, root) for row in rows]),
        texts=tuple(row.phones for row in rows),
        **changes,
    )


def encoded_of(teacher, one):
    inputs = teacher.reader(one.audio.waveforms(), one.texts)
    return teacher.system.encode(*inputs)


def lists(labels):
    return [string.tolist() for string in labels.strings()]


@pytest.mark.parametrize("reads", ["speech", "text"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_answer_is_what_the_model_decodes_by_itself(tiny_root, rows, folders, reads, beam_size):
    [teacher, *_] = load_teachers(folders[reads])
    one = about(rows, tiny_root, writing=Writing(beam_size=beam_size, max_length=6))
    found = ask([teacher], one)
    encoded = encoded_of(teacher, one)
    limits = torch.full((ROWS,), 6)
    if beam_size == 1:
        expected = attention_greedy(teacher.system.model, encoded, limits)
    else:
        beams = attention_beam(teacher.system.model, encoded, limits, beam_size=beam_size)
        expected = [best.tokens for best, *_ in beams]
        means = [best.log_probability / (len(best.tokens) + 1) for best, *_ in beams]
        np.testing.assert_allclose(found.best.mean_log_probs, means, atol=1e-5)
    assert lists(found.best.strings) == expected
    assert any(expected)
    assert found.answered == (0,)
    assert found.teacher_s > 0


@pytest.mark.parametrize("reads", ["speech", "text"])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_forced_prefix_is_kept_and_gone_on_from(tiny_root, rows, folders, reads, beam_size):
    [teacher, *_] = load_teachers(folders[reads])
    tokens = Tokens.load(tiny_root / "data/tokens.json")
    prefix = Labels.of([tokens.encode(row.phones)[:length] for length, row in enumerate(rows)])
    # A limit that the longest prefix is beyond already.
    writing = Writing(beam_size=beam_size, max_length=3)
    found = ask([teacher], about(rows, tiny_root, prefix=prefix, writing=writing))
    for mine, start in zip(lists(found.best.strings), lists(prefix), strict=True):
        assert mine[: len(start)] == start
        assert len(mine) <= max(3, len(start))
    free = ask([teacher], about(rows, tiny_root, writing=writing))
    assert lists(free.best.strings)[0] == lists(found.best.strings)[0]
    assert lists(free.best.strings) != lists(found.best.strings)


def test_confidence_is_of_what_stands_behind_the_prefix(tiny_root, rows, folders):
    [teacher, *_] = load_teachers(folders["text"])
    prefix = Labels.of([[3, 4]] * ROWS)
    one = about(rows, tiny_root, prefix=prefix, writing=Writing(max_length=5))
    found = ask([teacher], one)
    encoded = encoded_of(teacher, one)
    for row, string in enumerate(lists(found.best.strings)):
        with torch.inference_mode():
            alone = encoded.select(torch.tensor([row]))
            logits = teacher.system.model.decoder_logits(
                alone, torch.tensor([string]), torch.tensor([len(string)])
            )
        log_p = torch.log_softmax(logits[0], -1)
        after = [float(log_p[place, token]) for place, token in enumerate([*string, 2])][2:]
        assert found.best.mean_log_probs[row] == pytest.approx(np.mean(after), abs=1e-5)


def test_limits_count_from_the_rows_own_encoder_output(tiny_root, rows, folders):
    [teacher, *_] = load_teachers(folders["text"])
    for ratio in (0.3, 1.0):
        one = about(rows, tiny_root, writing=Writing(max_length=50, max_length_ratio=ratio))
        strings = lists(ask([teacher], one).best.strings)
        read = [len(row.phones.split()) + 1 for row in rows]
        assert all(
            len(string) <= max(1, np.ceil(ratio * positions))
            for string, positions in zip(strings, read, strict=True)
        )


def test_the_most_confident_teacher_is_taken_or_the_named_one(tiny_root, rows, folders):
    teachers = load_teachers(folders["text"])
    writing = Writing(max_length=5)
    each = ask(teachers, about(rows, tiny_root, writing=writing, per_teacher=True))
    assert [output.teachers[0] for output in each.outputs] == [0, 1]
    for row in range(ROWS):
        scores = [output.mean_log_probs[row] for output in each.outputs]
        best = int(np.argmax(scores))
        assert each.best.teachers[row] == best
        assert lists(each.best.strings)[row] == lists(each.outputs[best].strings)[row]
    for number in (0, 1):
        named = ask(teachers, about(rows, tiny_root, writing=writing, teacher=number))
        assert named.answered == (number,)
        assert lists(named.best.strings) == lists(each.outputs[number].strings)
    with pytest.raises(ValueError, match="there are 2 teachers"):
        ask(teachers, about(rows, tiny_root, teacher=2))


def test_ties_go_to_the_lowest_index_however_answers_are_merged():
    one = writing_request(1, 4, per_teacher=True)
    found = ask([FakeTeacher(5), FakeTeacher(5), FakeTeacher(1)], one)
    first, second, third = found.outputs
    assert set(found.best.teachers.tolist()) <= {0, 2}
    for tree in ([first, best_of([second, third])], [best_of([third, second]), first]):
        merged = best_of(tree)
        np.testing.assert_array_equal(merged.teachers, found.best.teachers)
        assert lists(merged.strings) == lists(found.best.strings)


def test_scoring_and_writing_never_share_a_pass_and_large_requests_are_cut():
    teacher = FakeTeacher(4)
    host = TeacherHost([teacher], max_batch_utterances=3)

    async def both():
        try:
            return await asyncio.gather(
                host.answer(writing_request(1, 7)), host.answer(request(2, 3))
            )
        finally:
            await host.close()

    written, scored = asyncio.run(both())
    assert sorted(teacher.batch_sizes) == [1, 3, 3, 3]
    assert written.partial.teachers.tolist() == [0] * 7
    expected = ask([FakeTeacher(4)], writing_request(1, 7))
    assert lists(written.partial.strings) == lists(expected.best.strings)
    assert scored.partial.probabilities is not None


def test_a_teacher_that_writes_nan_is_quarantined_and_the_others_go_on():
    source = LocalSource([FakeTeacher(1), FakeTeacher(2, broken_after=0)])
    found = source.ask(writing_request(1)).result(10.0)
    assert found.answered == (0,)
    assert set(found.best.teachers.tolist()) == {0}
    with pytest.raises(TeachersGone, match=r"teacher 1 was asked alone.*fake-2"):
        source.ask(writing_request(1, teacher=1)).result(10.0)
    assert source.counts["teachers_quarantined"] == 1
    source.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"max_length": 0}, "max_length"),
        ({"max_length_ratio": 0.0}, "max_length_ratio"),
    ],
)
def test_ways_of_writing_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Writing(**wrong)


def test_a_store_says_that_it_cannot_write_and_who_can(tiny_root, rows, folders):
    with temporary_store(
        folders["speech"], rows, root=tiny_root, tokens=tiny_root / "data/tokens.json",
        column="phones",
    ) as store, pytest.raises(ValueError, match=r"not Generate.*local or pool"):  # fmt: skip
        store.ask(about(rows, tiny_root))


def test_greedy_writing_is_what_the_decode_command_finds(tiny_root, rows, folders):
    [teacher, *_] = load_teachers(folders["speech"])
    found = ask([teacher], about(rows, tiny_root, writing=Writing(max_length_ratio=1.0)))
    inputs = [read_waveform(row, tiny_root) for row in rows]
    ids = [row.id for row in rows]
    decoded = teacher.system.decode_inputs(inputs, ids, Search(("attention",)))
    assert lists(found.best.strings) == [list(each.attention) for each in decoded]
