"""Hosts with a cache, hosts whose teachers take turns, hosts that several jobs share."""

import asyncio
import dataclasses
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from doubles import FakeTeacher, request, writing_request

from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.core import strategies
from kd_ray.core.contracts import Fusion
from kd_ray.teachers.answers import Call, fuse
from kd_ray.teachers.cards import TeacherCard
from kd_ray.teachers.host import NotHere, TeacherHost
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.residency import Residency
from kd_ray.teachers.residents import AllLoaded, paged_from_folders

MIB = 1 << 20


def passes(teachers):
    return sum(len(teacher.batch_sizes) for teacher in teachers)


def answers(host, *requests, calls=None):
    """Answers to requests that are asked at once."""

    async def ask():
        given = calls or [Call()] * len(requests)
        return await asyncio.gather(
            *(host.answer(one, call) for one, call in zip(requests, given, strict=True))
        )

    return asyncio.run(ask())


def assert_same(one, mine, expected):
    mine, expected = fuse(one, [mine]), fuse(one, [expected])
    if hasattr(mine, "tokens"):
        np.testing.assert_allclose(
            np.exp(mine.tokens.log_probs), np.exp(expected.tokens.log_probs), atol=1e-6
        )
        np.testing.assert_array_equal(mine.labels.labels, expected.labels.labels)
        np.testing.assert_allclose(mine.labels.weights, expected.labels.weights)
        np.testing.assert_array_equal(mine.ctc_errors, expected.ctc_errors)
    else:
        np.testing.assert_array_equal(mine.best.strings.ids, expected.best.strings.ids)
        np.testing.assert_array_equal(mine.best.teachers, expected.best.teachers)
    assert mine.answered == expected.answered


class TestCache:
    def test_another_strategy_and_temperature_cost_no_teacher_computation(self):
        teachers = [FakeTeacher(seed) for seed in (1, 2, 3)]
        host = TeacherHost(teachers, memory=Memory(MIB))
        one = request(1, 4, strategy=Weighted())
        (first,) = answers(host, one)
        before = passes(teachers)
        others = [
            dataclasses.replace(one, fusion=Fusion(Best(), temperature=2.0)),
            dataclasses.replace(one, fusion=Fusion(Average(), max_strings=1)),
            dataclasses.replace(one, wanted=frozenset({"labels"})),
        ]
        for other in others[:2]:
            (again,) = answers(host, other)
            (fresh,) = answers(TeacherHost([FakeTeacher(s) for s in (1, 2, 3)]), other)
            assert_same(other, again, fresh)
            assert (again.teacher_s, again.known_rows) == (0.0, 12)
        (labels,) = answers(host, others[2])
        assert labels.known_rows == 12
        assert passes(teachers) == before
        cost = host.status.costs[""]
        assert (cost.requests, cost.rows, cost.known_rows) == (4, 48, 36)
        assert cost.teacher_s == pytest.approx(first.teacher_s)
        assert cost.bytes_in == 4 * one.audio.samples.nbytes
        assert first.known_rows == 0
        assert first.teacher_s > 0
        assert host.status.cache.entries == 12

    def test_only_the_rows_that_are_missing_are_computed(self):
        teachers = [FakeTeacher(seed) for seed in (1, 2)]
        host = TeacherHost(teachers, memory=Memory(MIB))
        one = request(1, 4)
        half = dataclasses.replace(
            one,
            utterance_ids=one.utterance_ids[1:3],
            audio=type(one.audio).of(one.audio.waveforms()[1:3]),
            references=type(one.references).of(one.references.strings()[1:3]),
        )
        answers(host, half)
        (whole,) = answers(host, one)
        assert [teacher.batch_sizes for teacher in teachers] == [[2, 2], [2, 2]]
        assert whole.known_rows == 4
        (fresh,) = answers(TeacherHost([FakeTeacher(1), FakeTeacher(2)]), one)
        assert_same(one, whole, fresh)

    def test_what_teachers_write_is_remembered_by_how_they_write(self):
        teachers = [FakeTeacher(seed) for seed in (1, 2)]
        host = TeacherHost(teachers, memory=Memory(MIB))
        one = writing_request(1, 3)
        (first,) = answers(host, one)
        (again,) = answers(host, one)
        assert passes(teachers) == 2
        assert_same(one, again, first)
        answers(
            host, dataclasses.replace(one, writing=dataclasses.replace(one.writing, beam_size=3))
        )
        assert passes(teachers) == 4

    def test_a_teacher_that_is_quarantined_is_forgotten(self):
        good, bad = FakeTeacher(1), FakeTeacher(2, broken_after=1)
        host = TeacherHost([good, bad], memory=Memory(MIB))
        answers(host, request(1))
        assert host.status.cache.entries == 6
        (second,) = answers(host, request(2))
        assert second.answered == (0,)
        # Not even what it said while it was in order is used any more.
        assert host.status.cache.entries == 6
        (first,) = answers(host, request(1))
        assert first.answered == (0,)


class TestJobs:
    def test_a_job_numbers_teachers_as_it_likes(self):
        teachers = [FakeTeacher(seed) for seed in (1, 2, 3, 4)]
        host = TeacherHost(teachers)
        one = request(1, strategy=Weighted())
        call = Call(teachers=(1, 3), numbers=(1, 0), num_teachers=2)
        (mine,) = answers(host, one, calls=[call])
        (expected,) = answers(TeacherHost([FakeTeacher(4), FakeTeacher(2)]), one)
        assert set(mine.answered) == {0, 1}
        one_signal, other = fuse(one, [mine]), fuse(one, [expected])
        np.testing.assert_allclose(
            np.exp(one_signal.tokens.log_probs), np.exp(other.tokens.log_probs), atol=1e-6
        )
        np.testing.assert_allclose(one_signal.weights_tokens, other.weights_tokens, atol=1e-6)
        assert [len(teacher.batch_sizes) for teacher in teachers] == [0, 1, 0, 1]

    def test_a_teacher_that_lives_elsewhere_is_missing_from_the_answer(self):
        host = TeacherHost([FakeTeacher(1), FakeTeacher(2)])
        (answer,) = answers(host, request(1), calls=[Call((0, 5))])
        assert answer.answered == (0,)
        with pytest.raises(NotHere, match=r"teachers \[5\] do not live on this host, but \[0, 1\]"):
            answers(TeacherHost([FakeTeacher(1), FakeTeacher(2)]), request(1), calls=[Call((5,))])

    def test_a_finished_answer_is_the_target_of_its_partial(self):
        teachers = [FakeTeacher(seed) for seed in (1, 2)]
        one = request(1)
        plain, finished = answers(
            TeacherHost(teachers), one, one, calls=[Call(), Call(finish=True)]
        )
        assert finished.partial is None
        expected = strategies.finish(plain.partial)
        np.testing.assert_array_equal(finished.fused.tokens.log_probs, expected.tokens.log_probs)
        # Somebody is missing: others may have to be merged in.
        host = TeacherHost([FakeTeacher(1), FakeTeacher(2, broken_after=0)])
        (partial,) = answers(host, one, calls=[Call(finish=True)])
        assert partial.fused is None
        assert partial.partial is not None

    def test_a_large_job_does_not_keep_a_small_one_waiting(self):
        host = TeacherHost([FakeTeacher(1, pass_s=0.03)], max_batch_utterances=4)
        large = [request(seed, 4) for seed in range(12)]
        small = request(99, 3)
        done = []

        async def ask():
            async def answer(one, job):
                await host.answer(one, Call(job=job))
                done.append(job)

            await asyncio.gather(*(answer(one, "large") for one in large), answer(small, "small"))

        asyncio.run(ask())
        # It came last, and goes as soon as its features are made and the pass that runs is over.
        assert done.index("small") <= 5
        status = host.status
        assert status.jobs["small"].units == 3
        assert status.jobs["large"].units == 48


class TestTurns:
    def residents(self, count, capacity):
        """Fake teachers of one byte each, of which `capacity` can be loaded."""
        teachers = {index: FakeTeacher(index + 1, pass_s=0.005) for index in range(count)}
        cards = [
            TeacherCard(dataclasses.replace(teacher.info, index=index), 1, (0, 0))
            for index, teacher in teachers.items()
        ]
        residency = Residency(cards, lambda card, device: teachers[card.index], max_bytes=capacity)

        class Some(AllLoaded):
            in_turns = capacity < count

            @property
            def status(self):
                return residency.status

            @contextmanager
            def use(self, index):
                with residency.use(index) as teacher:
                    yield teacher

        return Some(list(teachers.values())), residency

    def test_requests_of_a_window_share_the_visits_of_teachers(self):
        residents, residency = self.residents(10, 3)
        host = TeacherHost(residents, window=8)
        requests = [request(seed, 2) for seed in range(6)]
        found = answers(host, *requests)
        loads = residency.status.loads_of
        assert residency.status.resident_bytes <= 3
        # 60 visits if each request went through all teachers by itself. Requests come one after
        # the other here, so that the first visits find few of them.
        assert sum(loads.values()) <= 30
        assert max(loads.values()) <= 4
        fresh = answers(TeacherHost([FakeTeacher(seed) for seed in range(1, 11)]), *requests)
        for one, mine, expected in zip(requests, found, fresh, strict=True):
            assert_same(one, mine, expected)

    def test_a_checkpoint_that_breaks_takes_nobody_along(self, tiny_root, tmp_path):
        folders = copied(tiny_root, tmp_path)
        residents = paged_from_folders(folders, [0, 1, 2], device="cpu", max_bytes=1)
        assert residents.in_turns
        with open(folders[1] / "model.safetensors", "r+b") as file:
            file.truncate(1000)
        host = TeacherHost(residents)
        one = request(1, references=False, prefix=True, strategy=Average())
        one = dataclasses.replace(one, wanted=frozenset({"tokens"}))
        first, second, third = [answers(host, one)[0] for _ in range(3)]
        assert first.answered == second.answered == third.answered == (0, 2)
        # Tried twice, then left out, and told.
        assert list(third.quarantined) == [1]
        assert "model.safetensors" in third.quarantined[1] or "digest" in third.quarantined[1]

    def test_weights_that_are_kept_warm_need_no_file_at_the_second_visit(self, tiny_root, tmp_path):
        folders = copied(tiny_root, tmp_path)
        residents = paged_from_folders(
            folders, [0, 1, 2], device="cpu", max_bytes=1, warm_bytes=MIB
        )
        host = TeacherHost(residents)
        one = request(1, references=False, prefix=True, strategy=Average())
        one = dataclasses.replace(one, wanted=frozenset({"tokens"}))
        (first,) = answers(host, one)
        spoil(folders)
        (second,) = answers(host, one)
        assert first.answered == second.answered == (0, 1, 2)
        np.testing.assert_array_equal(first.partial.probabilities, second.partial.probabilities)
        # The last one was still loaded.
        assert host.status.residency.loads_of == {0: 2, 1: 2, 2: 1}
        # Without room for copies the files are read, and missed.
        cold = paged_from_folders(
            copied(tiny_root, tmp_path / "cold"), [0, 1, 2], device="cpu", max_bytes=1
        )
        host = TeacherHost(cold)
        answers(host, one)
        spoil(list((tmp_path / "cold").iterdir()))
        (second,) = answers(host, one)
        # The teacher that was visited last is still loaded.
        assert second.answered == (2,)

    def test_nothing_is_copied_where_all_teachers_stay_loaded(self, tiny_root, tmp_path):
        folders = copied(tiny_root, tmp_path)
        residents = paged_from_folders(
            folders, [0, 1, 2], device="cpu", max_bytes=None, warm_bytes=MIB
        )
        assert residents._warm is None


def spoil(folders):
    """Other files in place of the weights; what is mapped of the old ones stays as it was."""
    for folder in folders:
        weights = folder / "model.safetensors"
        weights.unlink()
        weights.write_bytes(b"no weights")


def copied(root, to):
    """Checkpoint folders that a test may break."""
    folders = []
    for number in range(3):
        folder = to / f"t{number}"
        folder.mkdir(parents=True)
        for path in (root / "teachers" / f"t{number}").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        folders.append(folder)
    return folders


def test_hosts_are_closed_without_a_thread_left():
    before = threading.active_count()
    host = TeacherHost([FakeTeacher(1)], memory=Memory(MIB))

    async def go():
        await host.answer(request(1))
        await host.close()

    asyncio.run(go())
    assert threading.active_count() <= before + 1
