import asyncio
import concurrent.futures
import dataclasses
import threading

import numpy as np
import pytest
from doubles import FakeTeacher, request
from doubles import waveforms as noise

from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.core import strategies
from kd_ray.core.contracts import Audio, Labels, TeachersGone
from kd_ray.speech.features import LogMelExtractor
from kd_ray.teachers import readers
from kd_ray.teachers.batching import Expired
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.local_source import LocalSource


def score(host, *requests):
    """Answers of requests made at the same time; closes the host."""

    async def ask():
        try:
            return await asyncio.gather(
                *[host.answer(one) for one in requests], return_exceptions=True
            )
        finally:
            await host.close()

    return asyncio.run(ask())


def direct(teachers, one):
    """What each teacher says to a request by itself."""
    outputs = []
    for index, teacher in enumerate(teachers):
        features, lengths = LogMelExtractor(teacher.front_end)(one.audio.waveforms())
        output = teacher.score(features, lengths, one.decoder_prefix(), one.references, one.wanted)
        outputs.append(dataclasses.replace(output, teacher=index))
    return outputs


def assert_same_signal(mine, expected):
    np.testing.assert_allclose(
        np.exp(mine.tokens.log_probs), np.exp(expected.tokens.log_probs), atol=1e-6
    )
    for name in ("labels", "lengths", "utterance"):
        np.testing.assert_array_equal(getattr(mine.labels, name), getattr(expected.labels, name))
    np.testing.assert_allclose(mine.labels.weights, expected.labels.weights, atol=1e-6)
    np.testing.assert_allclose(mine.weights_tokens, expected.weights_tokens, atol=1e-6)
    np.testing.assert_array_equal(mine.ctc_errors, expected.ctc_errors)
    assert tuple(mine.answered) == tuple(expected.answered)


@pytest.mark.parametrize("strategy", [Average(), Best(), Weighted(), Weighted(scope="batch")])
def test_partial_is_the_teachers_own_outputs_fused(strategy):
    teachers = [FakeTeacher(seed, num_mels=8 + seed % 2) for seed in (1, 2, 3)]
    one = request(5, 4, strategy=strategy)
    [answer] = score(TeacherHost(teachers), one)
    assert answer.answered == (0, 1, 2)
    expected = strategies.fuse(direct(teachers, one), one.fusion, 3)
    assert_same_signal(strategies.finish(answer.partial), expected)
    assert answer.teacher_s > 0
    assert answer.outputs == ()


class Gated(FakeTeacher):
    """Its first pass waits until the test opens the gate."""

    def __init__(self, seed):
        super().__init__(seed)
        self.started, self.gate = threading.Event(), threading.Event()

    def score(self, *arguments):
        self.started.set()
        assert self.gate.wait(10)
        return super().score(*arguments)


def test_requests_that_share_a_pass_get_their_own_answers():
    requests = [request(seed, rows) for seed, rows in ((1, 3), (2, 1), (3, 5))]
    mixed = Gated(4)
    host = TeacherHost([mixed])

    async def ask():
        first = asyncio.create_task(host.answer(request(9, 2)))
        await asyncio.to_thread(mixed.started.wait, 10)
        others = [asyncio.create_task(host.answer(one)) for one in requests]
        while host.status.queued_utterances < 9:
            await asyncio.sleep(0.001)
        mixed.gate.set()
        answers = [await one for one in (first, *others)]
        await host.close()
        return answers[1:]

    answers = asyncio.run(ask())
    assert mixed.batch_sizes == [2, 9]
    for one, answer in zip(requests, answers, strict=True):
        [alone] = score(TeacherHost([FakeTeacher(4)]), one)
        np.testing.assert_allclose(
            answer.partial.probabilities, alone.partial.probabilities, atol=1e-6
        )
    assert host.status.batches.passes == 2
    assert host.status.open_requests == 0


def test_per_request_batching_never_mixes():
    teacher = FakeTeacher(4)
    host = TeacherHost([teacher], batching="per_request")
    score(host, request(1, 3), request(2, 1), request(3, 2))
    assert sorted(teacher.batch_sizes) == [1, 2, 3]


def test_requests_with_and_without_references_are_not_mixed():
    teacher = FakeTeacher(4)
    requests = [
        request(seed, 2, references=seed % 2 == 0, prefix=True, strategy=Average())
        for seed in range(4)
    ]
    answers = score(TeacherHost([teacher]), *requests)
    assert [answer.partial.reference_lengths.min() >= 0 for answer in answers] == [
        True,
        False,
        True,
        False,
    ]


def test_a_large_request_is_split_and_joined():
    teacher = FakeTeacher(4)
    one = request(1, 7, per_teacher=True)
    [answer] = score(TeacherHost([teacher], max_batch_utterances=3), one)
    assert teacher.batch_sizes == [3, 3, 1]
    [expected] = direct([FakeTeacher(4)], one)
    [output] = answer.outputs
    for row, positions in enumerate(expected.positions):
        np.testing.assert_allclose(
            output.log_probs[row, :positions], expected.log_probs[row, :positions], atol=1e-6
        )
        np.testing.assert_array_equal(output.strings[row], expected.strings[row])
    np.testing.assert_array_equal(output.ctc_errors, expected.ctc_errors)
    np.testing.assert_array_equal(output.frames, expected.frames)


def test_features_are_computed_once_per_distinct_front_end(monkeypatch):
    calls = []

    class Counting(LogMelExtractor):
        def __call__(self, waveforms):
            calls.append(self.config.num_mels)
            return super().__call__(waveforms)

    monkeypatch.setattr(readers, "LogMelExtractor", Counting)
    teachers = [FakeTeacher(seed, num_mels=8 + seed % 2) for seed in range(6)]
    score(TeacherHost(teachers), request(1), request(2))
    assert sorted(calls) == [8, 8, 9, 9]


def test_forward_passes_leave_the_event_loop_free():
    threads = []

    class Watching(FakeTeacher):
        def score(self, *arguments):
            threads.append(threading.current_thread())
            return super().score(*arguments)

    score(TeacherHost([Watching(1), Watching(2)]), request(1))
    assert threading.main_thread() not in threads
    assert len(set(threads)) == 1


def test_teachers_are_numbered_as_in_the_pool():
    host = TeacherHost([FakeTeacher(1), FakeTeacher(2)], indices=[3, 5], num_teachers=8)
    assert [info.index for info in host.infos] == [3, 5]
    [answer] = score(host, request(1, per_teacher=True))
    assert answer.answered == (3, 5)
    assert answer.partial.teachers.tolist() == [3, 5]
    assert [output.teacher for output in answer.outputs] == [3, 5]


def test_a_teacher_that_answers_nan_is_dropped_from_this_and_later_answers():
    broken = FakeTeacher(2, broken_after=1)
    host = TeacherHost([FakeTeacher(1), broken, FakeTeacher(3)])

    async def ask():
        answers = [await host.answer(request(seed)) for seed in range(4)]
        await host.close()
        return answers

    answers = asyncio.run(ask())
    assert [answer.answered for answer in answers] == [(0, 1, 2), (0, 2), (0, 2), (0, 2)]
    assert answers[0].quarantined == {}
    assert "not finite" in answers[1].quarantined[1]
    assert len(broken.batch_sizes) == 2
    assert np.isfinite(answers[1].partial.probabilities).all()


def test_nan_in_the_padding_of_an_output_is_no_fault():
    # FakeTeacher fills positions beyond the prefix with NaN.
    one = request(3, 5)
    assert len(set(one.references.lengths.tolist())) > 1
    [answer] = score(TeacherHost([FakeTeacher(1)]), one)
    assert answer.quarantined == {}


def test_a_host_without_a_sound_teacher_answers_with_nothing():
    [answer] = score(TeacherHost([FakeTeacher(1, broken_after=0)]), request(1))
    assert answer.partial is None
    assert answer.answered == ()


def test_a_teachers_error_reaches_every_request_of_its_pass():
    teachers = [FakeTeacher(1), FakeTeacher(2, error=ArithmeticError("overflow"))]
    answers = score(TeacherHost(teachers), request(1), request(2))
    assert [type(answer) for answer in answers] == [ArithmeticError] * 2


def test_a_request_past_its_deadline_is_dropped_without_being_computed():
    teacher = FakeTeacher(1)
    [answer] = score(TeacherHost([teacher]), request(1, deadline_s=0.0))
    assert isinstance(answer, Expired)
    assert teacher.batch_sizes == []


def test_label_strings_alone_need_neither_prefix_nor_references():
    one = request(1, references=False, strategy=Average(), wanted=frozenset({"labels"}))
    [answer] = score(TeacherHost([FakeTeacher(1)]), one)
    target = strategies.finish(answer.partial)
    assert target.tokens is None
    assert target.labels is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utterance_ids": ()}, "at least one utterance"),
        ({"utterance_ids": ("a", "b")}, "names 2 utterances but audio has 3"),
        ({"references": Labels.of([[3]])}, "references has 1"),
        ({"prefix": Labels.of([[3]])}, "prefix has 1"),
        ({"references": None}, "prefix or references"),
        ({"wanted": frozenset()}, "wanted is empty"),
        ({"audio": Audio(np.zeros(5, np.int16), np.array([1, 1, 1]))}, "add up to 3"),
    ],
)
def test_a_request_whose_parts_do_not_fit_is_refused(change, message):
    source = LocalSource([FakeTeacher(1)])
    with pytest.raises(ValueError, match=message):
        source.ask(dataclasses.replace(request(1, 3), **change))
    source.close()


def test_local_source_answers_in_any_order_of_collecting():
    teachers = [FakeTeacher(seed) for seed in (1, 2, 3)]
    source = LocalSource(teachers)
    requests = [request(seed) for seed in range(3)]
    pending = [source.ask(one) for one in requests]
    for one, waiting in reversed(list(zip(requests, pending, strict=True))):
        signal = waiting.result(10.0)
        assert signal.utterance_ids == one.utterance_ids
        assert_same_signal(signal, strategies.fuse(direct(teachers, one), one.fusion, 3))
    assert source.describe().source == "local"
    assert source.counts == {"requests": 3, "signals": 3}
    source.close()
    source.close()
    with pytest.raises(RuntimeError, match="closed"):
        source.ask(requests[0])


def test_local_source_tells_of_a_quarantined_teacher_once_and_goes_on():
    events = []
    source = LocalSource(
        [FakeTeacher(1), FakeTeacher(2, broken_after=0)],
        on_event=lambda kind, **details: events.append((kind, details)),
    )
    for seed in range(3):
        signal = source.ask(request(seed)).result(10.0)
        assert signal.answered == (0,)
        np.testing.assert_array_equal(signal.weights_tokens[1], 0)
    assert [kind for kind, _ in events] == ["teacher_quarantined", "signal_shortened"]
    assert events[0][1]["teacher"] == "fake-2"
    assert source.counts["shortened_signals"] == 3
    source.close()


def test_local_source_stops_when_too_few_teachers_are_left():
    source = LocalSource([FakeTeacher(1), FakeTeacher(2, broken_after=0)], quorum=1.0)
    with pytest.raises(TeachersGone, match=r"1 of 2 teachers.*fake-2 \(outputs"):
        source.ask(request(1)).result(10.0)
    source.close()


def test_local_result_times_out_and_can_be_asked_again():
    slow = Gated(1)
    source = LocalSource([slow])
    waiting = source.ask(request(1))
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        waiting.result(0.01)
    slow.gate.set()
    assert waiting.result(10.0).answered == (0,)
    source.close()


def test_closing_a_local_source_gives_up_what_is_in_flight():
    slow = Gated(1)
    source = LocalSource([slow, FakeTeacher(2)])
    waiting = [source.ask(request(seed)) for seed in range(3)]
    assert slow.started.wait(10)
    waiting[2].cancel()
    closing = threading.Thread(target=source.close)
    closing.start()
    # Requests are given up before the pass is waited for.
    for one in waiting:
        with pytest.raises(concurrent.futures.CancelledError):
            one.result(10.0)
    slow.gate.set()
    closing.join(10)
    assert not closing.is_alive()


def test_noise_is_long_enough_for_features():
    assert (
        min(len(one) for one in noise(1, 50))
        >= LogMelExtractor(FakeTeacher(1).front_end).min_samples
    )
