"""The load that checks answers: it finds what is wrong, lost or short, and counts the rest."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from doubles import FakeTeacher, request, writing_request

from kd_ray.bench.load import Load, Tally, ask_locally, difference
from kd_ray.config.strategies import Average, Best, TopM, Weighted
from kd_ray.core.contracts import Busy, TeachersGone
from kd_ray.teachers.local_source import LocalSource


def teachers():
    return [FakeTeacher(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def questions():
    scored = [
        request(seed, 3, strategy=strategy)
        for seed, strategy in enumerate((Weighted(), Best(), Average(), TopM(m=2, scale=0.1)))
    ]
    return ask_locally([*scored, writing_request(9)], teachers())


@pytest.fixture
def local():
    source = LocalSource(teachers())
    yield source
    source.close()


class Spoiled:
    """Passes requests on to a source, and spoils some answers."""

    def __init__(self, source, spoil):
        self.source, self.spoil = source, spoil
        self.asked = 0

    def ask(self, one):
        number, self.asked = self.asked, self.asked + 1
        return SpoiledAnswer(self.source.ask(one), lambda answer: self.spoil(number, answer))


class SpoiledAnswer:
    def __init__(self, pending, spoil):
        self.pending, self.spoil = pending, spoil

    def result(self, timeout_s):
        return self.spoil(self.pending.result(timeout_s))


def run(source, questions, count=20, **options):
    done = threading.Event()

    class Stopping:
        def ask(self, one):
            if load.tally.asked + 1 >= count:
                done.set()
            return source.ask(one)

    load = Load(Stopping(), questions, **options)
    with load:
        assert done.wait(20)
    return load.tally


def test_every_answer_is_right(local, questions):
    tally = run(local, questions)
    assert tally.sound
    assert tally.right == tally.asked >= 5
    assert (tally.shortened, tally.gone, tally.problems) == (0, 0, [])
    assert tally.plain()["p50_s"] <= tally.plain()["p99_s"] <= tally.plain()["longest_s"]


def test_answers_that_lack_teachers_are_checked_against_those_they_name(questions):
    broken = teachers()
    broken[1].broken_after = 0
    source = LocalSource(broken)
    tally = run(source, questions[:4])
    source.close()
    assert tally.sound
    assert tally.shortened == tally.right == tally.asked


def test_wrong_answers_are_found(local, questions):
    def spoil(number, answer):
        return dataclasses.replace(answer, answered=(0, 0, 1, 2)) if number == 2 else answer

    tally = run(Spoiled(local, spoil), questions, in_flight=1)
    assert not tally.sound
    assert (tally.wrong, tally.right) == (1, tally.asked - 1)
    assert "answered by teachers (0, 0, 1, 2)" in tally.problems[0]


def test_lost_answers_and_missing_quorums_are_told_apart(local, questions):
    def spoil(number, answer):
        if number == 1:
            raise TeachersGone("too few")
        if number == 2:
            raise TimeoutError("no word")
        return answer

    tally = run(Spoiled(local, spoil), questions, in_flight=1)
    assert (tally.gone, tally.lost, tally.right) == (1, 1, tally.asked - 2)
    assert not tally.sound
    assert "TimeoutError: no word" in tally.problems[0]


def test_a_busy_source_is_asked_again(local, questions):
    class Full:
        turns = 0

        def ask(self, one):
            Full.turns += 1
            if Full.turns % 3 == 0:
                raise Busy("full")
            return local.ask(one)

    tally = run(Full(), questions)
    assert tally.sound


@pytest.mark.parametrize("answered", [(0,), (1, 2), (0, 1, 2)])
def test_the_expected_answer_is_that_of_local_teachers(questions, answered):
    for question in questions:
        own = LocalSource(teachers(), quorum=0.1)
        others = set(range(3)) - set(answered)
        own._host._quarantined.update(dict.fromkeys(others, "left out by the test"))
        answer = own.ask(question.request).result(10)
        own.close()
        assert question.fault_of(answer) is None


def test_every_kind_of_difference_is_named(local, questions):
    signal = local.ask(questions[0].request).result(10)
    expected = questions[0].expected((0, 1, 2))
    assert difference(signal, expected) is None
    log_probs = signal.tokens.log_probs.copy()
    log_probs[0, 0, 0] += 1e-3
    changes = {
        "probabilities": {"tokens": dataclasses.replace(signal.tokens, log_probs=log_probs)},
        "weights_tokens": {"weights_tokens": signal.weights_tokens + 1e-3},
        "ctc_errors": {"ctc_errors": signal.ctc_errors + 1},
        "utterance_ids": {"utterance_ids": ("x", *signal.utterance_ids[1:])},
        "tokens given": {"tokens": None},
        "answered": {"answered": (0, 1)},
        "labels": {"labels": dataclasses.replace(signal.labels, labels=signal.labels.labels + 1)},
    }
    for name, change in changes.items():
        found = difference(dataclasses.replace(signal, **change), expected)
        assert found is not None, name
        assert found.startswith(name)
    written = local.ask(questions[4].request).result(10)
    assert "instead of a" in difference(written, expected)
    best = dataclasses.replace(written.best, teachers=written.best.teachers + 1)
    assert difference(
        dataclasses.replace(written, best=best), questions[4].expected((0, 1, 2))
    ).startswith("teachers")


def test_a_load_keeps_to_its_rate(local, questions):
    started = time.monotonic()
    load = Load(local, questions, per_s=20)
    with load:
        threading.Event().wait(0.5)
    assert load.tally.asked <= 20 * (time.monotonic() - started) + 1


def test_a_tally_keeps_few_texts():
    tally = Tally()
    for number in range(100):
        tally.note(str(number))
    assert len(tally.problems) < 100
    assert np.isfinite(tally.plain()["p99_s"])
