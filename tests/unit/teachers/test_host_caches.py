"""A host's caches: fused rows, teachers' own rows, a target store. Answers are the same as without.

Whatever is remembered, an answer must be what teachers would say; and they must not be asked.
"""

import asyncio
import dataclasses

import numpy as np
import pytest
from doubles import FakeTeacher, request, writing_request
from store_doubles import store_answers

from kd_ray.config.strategies import (
    Average,
    Best,
    Confidence,
    Fixed,
    TopM,
    TrustTable,
    Weighted,
)
from kd_ray.core import strategies
from kd_ray.core.contracts import Audio, Fusion, Labels
from kd_ray.speech.manifest import Utterance
from kd_ray.teachers.answers import Call, fuse, merge_partials
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.store import TargetStore

MIB = 1 << 20
SEEDS = (1, 2, 3, 4)
TABLE = TrustTable(
    split="valid", measure="wer", teachers=tuple(f"digest-{s}" for s in SEEDS),
    error_percent=(10.0, 20.0, 15.0, 12.0),
)  # fmt: skip
BY_UTTERANCE = [
    Average(),
    Best(),
    Best(ties="average"),
    Weighted(),
    Weighted(trust="teacher_forced", scale=0.3),
    Weighted(scope="corpus", table=TABLE),
    Best(scope="corpus", table=TABLE),
    TopM(m=2),
    TopM(m=2, scope="corpus", table=TABLE),
    Confidence(),
    Fixed(weights=(1.0, 2.0, 3.0, 4.0)),
]
BY_BATCH = [Weighted(scope="batch"), Best(scope="batch"), TopM(m=2, scope="batch")]
FINISH = Call(finish=True)


def teachers(seeds=SEEDS):
    return [FakeTeacher(seed, num_mels=8 + seed % 2) for seed in seeds]


def passes(asked):
    return sum(len(teacher.batch_sizes) for teacher in asked)


def rows_computed(asked):
    return [sum(teacher.batch_sizes) for teacher in asked]


def ask(host, one, call=FINISH):
    return asyncio.run(host.answer(one, call))


def part_of(one, rows):
    """The request as if it had been made for some of its utterances."""

    def take(labels):
        return None if labels is None else Labels.of([labels.strings()[row] for row in rows])

    waves = one.audio.waveforms()
    return dataclasses.replace(
        one,
        utterance_ids=tuple(one.utterance_ids[row] for row in rows),
        audio=Audio.of([waves[row] for row in rows]),
        references=take(one.references),
        prefix=take(one.prefix),
    )


def assert_same(one, mine, theirs):
    """Within DESIGN's tolerances; discrete parts equal."""
    mine, theirs = fuse(one, [mine], mine.fused), fuse(one, [theirs], theirs.fused)
    for name in ("weights_tokens", "weights_labels"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), atol=1e-6)
    for name in ("ctc_errors", "decoder_errors", "reference_lengths"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert mine.answered == theirs.answered
    assert mine.fusing == theirs.fusing
    assert (mine.tokens is None) == (theirs.tokens is None)
    if theirs.tokens is not None:
        np.testing.assert_array_equal(mine.tokens.lengths, theirs.tokens.lengths)
        for row, length in enumerate(theirs.tokens.lengths):
            np.testing.assert_allclose(
                np.exp(mine.tokens.log_probs[row, :length]),
                np.exp(theirs.tokens.log_probs[row, :length]),
                atol=1e-6,
            )
    for name in ("labels", "lengths", "utterance"):
        np.testing.assert_array_equal(getattr(mine.labels, name), getattr(theirs.labels, name))
    np.testing.assert_allclose(mine.labels.weights, theirs.labels.weights, atol=1e-6)


MEMORIES = {
    "outputs": lambda: Memory(MIB),
    "fused": lambda: Memory(0, MIB),
    "both": lambda: Memory(MIB, MIB),
}


@pytest.mark.parametrize("levels", MEMORIES)
@pytest.mark.parametrize("strategy", [*BY_UTTERANCE, *BY_BATCH], ids=repr)
@pytest.mark.parametrize("finish", [True, False])
def test_answers_are_the_same_with_and_without_a_cache(levels, strategy, finish):
    mine, call = teachers(), Call(finish=finish)
    host = TeacherHost(mine, memory=MEMORIES[levels]())
    one = request(3, 6, strategy=strategy)
    for fusion in (one.fusion, Fusion(strategy, temperature=2.0, max_strings=1)):
        each = dataclasses.replace(one, fusion=fusion)
        half = part_of(each, [4, 1, 2])
        fresh = ask(TeacherHost(teachers()), each, call)
        # Some rows at first, then all of them, then all of them from memory.
        assert_same(half, ask(host, half, call), ask(TeacherHost(teachers()), half, call))
        assert_same(each, ask(host, each, call), fresh)
        before = passes(mine)
        again = ask(host, each, call)
        assert_same(each, again, fresh)
        assert (again.fused is None) == (not finish)
        remembered = levels != "fused" or strategy in BY_UTTERANCE
        assert passes(mine) - before == (0 if remembered else 4)
        assert again.known_rows == (24 if remembered else 0)


@pytest.mark.parametrize("fusing", ["mixture", "geometric"])
@pytest.mark.parametrize("wanted", ["tokens", "labels"])
def test_one_kind_of_target_and_geometric_fusing_are_remembered_too(fusing, wanted):
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(0, MIB))
    one = dataclasses.replace(
        request(3, 5), fusion=Fusion(Weighted(), fusing=fusing), wanted=frozenset({wanted})
    )
    expected = ask(TeacherHost(teachers()), one).fused
    for _ in range(2):
        fused = ask(host, one).fused
        assert (fused.tokens is None) == (expected.tokens is None)
        assert (fused.labels is None) == (expected.labels is None)
        np.testing.assert_array_equal(fused.weights_tokens, expected.weights_tokens)
        if expected.tokens is not None:
            np.testing.assert_allclose(
                np.exp(fused.tokens.log_probs), np.exp(expected.tokens.log_probs), atol=1e-6
            )
    assert rows_computed(mine) == [5] * 4


@pytest.mark.parametrize("strategy", BY_UTTERANCE, ids=repr)
def test_hosts_with_some_of_the_teachers_remember_their_partials(strategy):
    groups = [(0, 2), (1, 3)]
    mine = teachers()
    hosts = [
        TeacherHost(
            [mine[index] for index in group], indices=group, num_teachers=4,
            memory=Memory(0, MIB),
        )
        for group in groups
    ]  # fmt: skip
    one = request(5, 6, strategy=strategy)
    expected = strategies.finish(ask(TeacherHost(teachers()), one, Call()).partial)

    def target():
        answers = [ask(host, one, Call()) for host in hosts]
        return strategies.finish(merge_partials([answer.partial for answer in answers])), answers

    ask(hosts[0], part_of(one, [5, 0]), Call())
    target()
    before = passes(mine)
    fused, answers = target()
    assert passes(mine) == before
    assert [answer.known_rows for answer in answers] == [12, 12]
    assert [answer.answered for answer in answers] == [(0, 2), (1, 3)]
    np.testing.assert_allclose(
        np.exp(fused.tokens.log_probs), np.exp(expected.tokens.log_probs), atol=1e-6
    )
    np.testing.assert_allclose(fused.weights_tokens, expected.weights_tokens, atol=1e-6)
    np.testing.assert_array_equal(fused.labels.labels, expected.labels.labels)
    np.testing.assert_allclose(fused.labels.weights, expected.labels.weights, atol=1e-6)


def test_only_the_rows_that_no_target_is_remembered_of_are_computed():
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(0, MIB))
    one = request(1, 6)
    ask(host, part_of(one, [1, 4]))
    ask(host, one)
    assert rows_computed(mine) == [6] * 4
    statistics = host.status.fused
    assert (statistics.entries, statistics.lookups.hits, statistics.lookups.misses) == (6, 2, 6)
    assert host.status.cache is None
    cost = host.status.costs[""]
    assert (cost.requests, cost.rows, cost.known_rows) == (2, 32, 8)


def test_another_job_finds_the_same_target_and_another_strategy_does_not():
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(0, MIB))
    one = request(1, 3)
    ask(host, one, Call(finish=True, job="first"))
    ask(host, one, Call(finish=True, job="second"))
    assert host.status.fused.jobs["second"].hit_share == 1.0
    assert host.status.costs["second"].teacher_s == 0.0
    ask(host, dataclasses.replace(one, fusion=Fusion(Best())))
    # Another order of teachers is another list: `best` counts from the first.
    ask(host, one, Call(numbers=(1, 0, 2, 3), finish=True))
    assert rows_computed(mine) == [9] * 4


def test_both_levels_together_fuse_again_what_teachers_need_not_say_again():
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(MIB, MIB))
    one = request(1, 3)
    ask(host, one)
    ask(host, dataclasses.replace(one, fusion=Fusion(Best(), temperature=2.0)))
    ask(host, dataclasses.replace(one, per_teacher=True))
    assert rows_computed(mine) == [3] * 4


def test_a_target_that_a_teacher_is_missing_in_is_made_whole_again_without_it():
    good, bad = FakeTeacher(1), FakeTeacher(2, broken_after=1)
    host = TeacherHost([good, bad], memory=Memory(0, MIB))
    one = request(1, 4)
    first = ask(host, part_of(one, [0, 2]))
    assert first.answered == (0, 1)
    # The second teacher breaks at the rest: rows that it had a part in do not fit any more.
    rest = ask(host, one)
    assert rest.answered == (0,)
    assert rest.fused is None
    assert set(rest.quarantined) == {1}
    expected = ask(TeacherHost([FakeTeacher(1)], num_teachers=2), one, Call())
    np.testing.assert_array_equal(rest.partial.probabilities, expected.partial.probabilities)
    assert host.status.fused.entries == 0
    ask(host, one)
    assert host.status.fused.entries == 0


def test_a_teacher_that_was_replaced_finds_nothing_of_the_one_before():
    one = request(1, 3)
    for memory in (Memory(MIB), Memory(0, MIB)):
        ask(TeacherHost(teachers((1, 2)), memory=memory), one)
        replaced = teachers((1, 3))
        answer = ask(TeacherHost(replaced, memory=memory), one)
        assert rows_computed(replaced)[1] == 3
        assert_same(one, answer, ask(TeacherHost(teachers((1, 3))), one))


def test_strings_that_teachers_write_are_no_fused_rows():
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(0, MIB))
    for _ in range(2):
        ask(host, writing_request(1, 3))
    assert rows_computed(mine) == [6] * 4


@pytest.fixture
def stored(tmp_path):
    """A target store of what two of the teachers say to a request, that request, and its data."""
    one = request(7, 6)
    return tmp_path / "store", one, store_answers(tmp_path / "store", one, teachers(SEEDS[:2]))


@pytest.mark.parametrize("strategy", [*BY_UTTERANCE, *BY_BATCH], ids=repr)
def test_a_store_answers_who_asks_about_its_data(stored, strategy):
    folder, one, data = stored
    one = dataclasses.replace(one, fusion=Fusion(strategy, temperature=1.5))
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(0, 0, folder))
    answer = ask(host, one, Call(finish=True, data=data))
    assert_same(one, answer, ask(TeacherHost(teachers()), one))
    assert rows_computed(mine) == [0, 0, 6, 6]
    assert answer.known_rows == 12
    assert (host.status.stored.hits, host.status.stored.misses) == (12, 12)


def test_a_store_stands_behind_the_caches_and_answers_nobody_else(stored):
    folder, one, data = stored
    mine = teachers()
    host = TeacherHost(mine, memory=Memory(MIB, 0, folder))
    call = Call(finish=True, data=data)
    ask(host, one, call)
    ask(host, one, call)
    assert rows_computed(mine) == [0, 0, 6, 6]
    # Teachers that the store lacks were remembered; for the others it was asked again.
    assert (host.status.stored.hits, host.status.stored.misses) == (24, 12)
    # Of other data, along other prefixes, or without a word about data: teachers answer.
    for stranger in (Call(data="0" * 16), Call()):
        fresh = teachers()
        ask(TeacherHost(fresh, memory=Memory(0, 0, folder)), one, stranger)
        assert rows_computed(fresh) == [6] * 4
    rollout = dataclasses.replace(one, prefix=Labels.of([[3]] * 6))
    fresh = teachers()
    ask(TeacherHost(fresh, memory=Memory(0, 0, folder)), rollout, call)
    assert rows_computed(fresh) == [6] * 4


def test_a_store_that_is_not_there_or_keeps_top_k_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere"):
        Memory(0, 0, tmp_path / "nowhere")
    infos = [teacher.info for teacher in teachers()]
    store = TargetStore.create(tmp_path / "cut", infos, top_k=3)
    store.plan("train", [Utterance(id="u", audio="u.wav", phones="a")], 4, column="phones")
    with pytest.raises(ValueError, match="keeps the 3 likeliest"):
        Memory(0, 0, store.folder)
