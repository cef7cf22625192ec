"""Hosts whose requests carry the student's masks."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from doubles import FakeTeacher, request, writing_request
from in_process_pool import InProcessPool

from kd_ray.core.contracts import Audio, Masks, View
from kd_ray.teachers.answers import Call
from kd_ray.teachers.cache import row_keys
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.rows import masks_together, split_request

MIB = 1 << 20


def masks(rows, seed=0, count=2):
    """Random masks of the first 60 ms and of the whole mel axis."""
    rng = np.random.default_rng(seed)
    times, mels = (np.sort(rng.random((rows, count, 2)), axis=2) for _ in range(2))
    return Masks(0.06 * times, mels)


def masked(one, seed=0, **options):
    return replace(one, view=View("student", 1, masks(len(one.utterance_ids), seed, **options)))


def answers(host, *requests):
    async def ask():
        try:
            return await asyncio.gather(*(host.answer(one, Call()) for one in requests))
        finally:
            await host.close()

    return asyncio.run(ask())


def probabilities(answer):
    return answer.partial.probabilities


def teachers():
    return [FakeTeacher(seed, num_mels=8 + seed % 2) for seed in (1, 2, 3)]


def test_teachers_answer_to_what_is_left_of_the_audio():
    one = request(1, 4)
    clean, hidden, other = answers(TeacherHost(teachers()), one, masked(one), masked(one, 5))
    assert np.abs(probabilities(clean) - probabilities(hidden)).max() > 1e-3
    assert np.abs(probabilities(other) - probabilities(hidden)).max() > 1e-3
    none = replace(one, view=View("student", 1, Masks(np.zeros((4, 2, 2)), np.zeros((4, 0, 2)))))
    [same] = answers(TeacherHost(teachers()), none)
    np.testing.assert_array_equal(probabilities(clean), probabilities(same))


def test_requests_with_and_without_masks_share_a_pass():
    """Batch mates, their masks and their number of masks change nothing."""
    requests = [masked(request(1, 3)), request(2, 2), masked(request(3, 4), 3, count=5)]
    teacher = FakeTeacher(4, pass_s=0.5)
    # The others come while the first one is computed.
    together = answers(TeacherHost([teacher]), request(9, 1), *requests)[1:]
    assert max(teacher.batch_sizes) > 4
    for one, answer in zip(requests, together, strict=True):
        [alone] = answers(TeacherHost([FakeTeacher(4)]), one)
        np.testing.assert_allclose(probabilities(answer), probabilities(alone), atol=1e-6)


def test_large_requests_are_cut_with_their_masks():
    one = masked(request(1, 7))
    [cut] = answers(TeacherHost(teachers(), max_batch_utterances=3), one)
    [whole] = answers(TeacherHost(teachers()), one)
    np.testing.assert_allclose(probabilities(cut), probabilities(whole), atol=1e-6)


def test_masks_of_several_pieces_are_laid_together():
    inputs = FakeTeacher(1).reader
    ones = [masked(request(1, 2)), request(2, 1), masked(request(3, 3), 3, count=5)]
    works = [w for one in ones for w in split_request(one, inputs(one.audio.waveforms()), 2)]
    together = masks_together(works)
    assert together.times_s.shape == together.mels.shape == (6, 5, 2)
    np.testing.assert_array_equal(together.times_s[:2, :2], ones[0].view.masks.times_s)
    np.testing.assert_array_equal(together.mels[3:], ones[2].view.masks.mels)
    assert not together.times_s[2].any()
    assert masks_together(works[1:2]) is None


def test_local_teachers_and_hosts_that_merge_say_the_same():
    local, pool = LocalSource(teachers()), InProcessPool(teachers(), 2)
    one = masked(request(4, 5))
    one = replace(one, fusion=replace(one.fusion, top_k=3))
    mine, theirs = (source.ask(one).result(30.0) for source in (local, pool))
    np.testing.assert_array_equal(mine.tokens.ids, theirs.tokens.ids)
    np.testing.assert_allclose(
        np.exp(mine.tokens.log_probs), np.exp(theirs.tokens.log_probs), atol=1e-6
    )
    np.testing.assert_array_equal(mine.weights_labels, theirs.weights_labels)
    for source in (local, pool):
        source.close()


def test_what_is_written_is_written_to_the_view_too():
    asked = masked(writing_request(1, 3))
    [answer] = answers(TeacherHost([FakeTeacher(2)]), asked)
    assert len(answer.partial.strings.lengths) == 3


def test_a_masked_row_is_remembered_as_such():
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(MIB))
    one = request(1, 4)

    async def ask():
        found = [await host.answer(each) for each in (one, masked(one), one, masked(one))]
        found.append(await host.answer(masked(one, 6)))
        # Of the four rows the last two have new masks.
        view = masked(one, 6).view.masks
        half = Masks(masks(4).times_s.copy(), masks(4).mels.copy())
        half.times_s[2:], half.mels[2:] = view.times_s[:2], view.mels[:2]
        found.append(await host.answer(replace(one, view=View("student", 1, half))))
        await host.close()
        return found

    clean, hidden, *again, other, half = asyncio.run(ask())
    assert [answer.known_rows for answer in (clean, hidden, *again, other, half)] == [
        0, 0, 12, 12, 0, 6
    ]  # fmt: skip
    for first, second in zip((clean, hidden), again, strict=True):
        np.testing.assert_array_equal(probabilities(first), probabilities(second))
    assert np.abs(probabilities(other) - probabilities(hidden)).max() > 1e-3
    np.testing.assert_array_equal(probabilities(half)[:2], probabilities(hidden)[:2])


def test_keys_know_the_masks_of_their_row_and_nothing_else():
    one = request(1, 3)
    keys = row_keys(masked(one))
    assert not set(keys) & set(row_keys(one))
    assert not set(keys) & set(row_keys(masked(one, 1)))
    # More room for masks that hide nothing is the same view.
    wide = masks(3)
    wide = Masks(np.pad(wide.times_s, ((0, 0), (0, 2), (0, 0))), wide.mels)
    assert row_keys(replace(one, view=View("student", 1, wide))) == keys
    # Text is read as it is.
    texts = replace(one, texts=("x", "y", "z"))
    assert row_keys(masked(texts), "text") == row_keys(texts, "text")
    without = replace(masked(texts), audio=Audio.of([]))
    assert row_keys(without, "text") == row_keys(texts, "text")


def test_masks_of_other_utterances_are_refused():
    one = request(1, 3)
    wrong = replace(one, view=View("student", 1, masks(2)))
    source = LocalSource([FakeTeacher(1)])
    with pytest.raises(ValueError, match=r"3 utterances but view\.masks\.times_s has 2"):
        source.ask(wrong)
    source.close()
