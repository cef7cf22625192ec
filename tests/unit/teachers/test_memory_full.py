"""Passes that meet full memory: by halves; one utterance that is too much is an answer less."""

import asyncio
import dataclasses

import numpy as np
import pytest
import torch
from doubles import FakeTeacher, request, writing_request
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.config.strategies import Weighted
from kd_ray.core.contracts import Masks, TeachersGone
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.memory import halves, is_out_of_memory
from kd_ray.teachers.rows import Work

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError("cannot allocate"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
]


class SmallMemory(FakeTeacher):
    """Raises `full` where a pass has more than `most` utterances."""

    def __init__(self, seed, most, full=FULL[0]):
        super().__init__(seed)
        self.most, self.full = most, full
        self.tried = []

    def score(self, features, lengths, *others):
        self._check(lengths)
        return super().score(features, lengths, *others)

    def generate(self, features, lengths, *others):
        self._check(lengths)
        return super().generate(features, lengths, *others)

    def _check(self, lengths):
        self.tried.append(len(lengths))
        if len(lengths) > self.most:
            raise self.full


def answers(teachers, *requests):
    host = TeacherHost(teachers)

    async def ask():
        try:
            return await asyncio.gather(*[host.answer(one) for one in requests])
        finally:
            await host.close()

    return asyncio.run(ask())


def same(mine, expected):
    np.testing.assert_array_equal(mine.tokens.log_probs, expected.tokens.log_probs)
    np.testing.assert_array_equal(mine.labels.labels, expected.labels.labels)
    np.testing.assert_array_equal(mine.weights_tokens, expected.weights_tokens)


@pytest.mark.parametrize("full", FULL, ids=["cuda", "python", "torch on the CPU"])
def test_the_answer_is_the_same_by_halves(full, caplog):
    one = request(1, 5, strategy=Weighted())
    teacher = SmallMemory(1, 2, full)
    mine = LocalSource([teacher, FakeTeacher(2)])
    expected = LocalSource([FakeTeacher(1), FakeTeacher(2)])
    same(mine.ask(one).result(10), expected.ask(one).result(10))
    assert teacher.tried == [5, 2, 3, 1, 2]
    # Two passes were too large; the request is told once.
    assert mine.counts["halved_passes"] == 1
    told = [r.getMessage() for r in caplog.records if "by halves" in r.getMessage()]
    assert len(told) == 1
    assert "5 utterances at once" in told[0]
    written = writing_request(3, 4)
    mine_written, other = mine.ask(written).result(10), expected.ask(written).result(10)
    np.testing.assert_array_equal(mine_written.best.strings.ids, other.best.strings.ids)
    for source in (mine, expected):
        source.close()


def test_requests_that_share_a_pass_get_their_own_rows():
    requests = [request(seed, 1 + seed) for seed in range(4)]
    shared = answers([SmallMemory(1, 1)], *requests)
    alone = [answers([FakeTeacher(1)], one)[0] for one in requests]
    for mine, expected in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(mine.partial.decoder_errors, expected.partial.decoder_errors)
        assert mine.answered == expected.answered == (0,)


def test_one_utterance_that_does_not_fit_is_one_answer_less():
    events = []
    teacher = SmallMemory(1, 0)
    source = LocalSource(
        [teacher, FakeTeacher(2)], quorum=0.5, on_event=lambda kind, **_: events.append(kind)
    )
    assert source.ask(request(1)).result(10).answered == (1,)
    assert source.ask(request(2)).result(10).answered == (1,)
    assert source.counts["teacher_failures"] == 2
    teacher.most = 9
    assert source.ask(request(3)).result(10).answered == (0, 1)
    assert events == ["teacher_failed", "signal_shortened", "signal_whole_again"]
    assert source._host.status.quarantined == {}
    source.close()
    strict = LocalSource([SmallMemory(1, 0), FakeTeacher(2)], quorum=1.0)
    with pytest.raises(TeachersGone, match=r"fake-1 \(no memory for one utterance of \d+ frames"):
        strict.ask(request(1)).result(10)
    strict.close()


def test_other_errors_are_no_matter_of_memory():
    assert all(map(is_out_of_memory, FULL))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    teacher = SmallMemory(1, 0, ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        answers([teacher], request(1))
    assert teacher.tried == [3]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
def test_halves_hold_every_row_once_and_in_order(sizes):
    works, first = [], 0
    for size in sizes:
        lengths = torch.arange(first + 1, first + size + 1)
        inputs = torch.arange(first, first + size)[:, None].expand(size, int(lengths.max()))
        rows = [np.array([row]) for row in range(first, first + size)]
        hidden = np.arange(first, first + size, dtype=float)[:, None, None] * [1, 1]
        works.append(Work(inputs, lengths, rows, rows, Masks(hidden, hidden)))
        first += size
    parts = halves(works)
    assert all(sum(work.size for work in part) for part in parts)
    joined = [work for part in parts for work in part]
    for name in ("prefix", "references"):
        rows = [int(row[0]) for work in joined for row in getattr(work, name)]
        assert rows == list(range(first))
    assert [int(row) for work in joined for row in work.inputs[:, 0]] == list(range(first))
    assert [row for work in joined for row in work.masks.mels[:, 0, 0]] == list(range(first))
    assert all(work.inputs.shape[1] == int(work.lengths.max()) for work in joined)
    if len(works) > 1:
        assert joined == works


def test_a_work_is_a_plain_value():
    """`halves` names every field of it."""
    assert {field.name for field in dataclasses.fields(Work)} == {
        "inputs",
        "lengths",
        "prefix",
        "references",
        "masks",
    }
