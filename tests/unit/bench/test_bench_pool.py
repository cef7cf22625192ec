"""The arithmetic of `kd-ray bench pool`, its teachers and its configuration; no Ray."""

import dataclasses
import json
import math
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.bench.pool import failover, measure, scaling
from kd_ray.bench.pool.fakes import BenchTeacher, fake_folders, fake_loader
from kd_ray.bench.pool.fleet import Events
from kd_ray.bench.pool.goals import Goal, sentence
from kd_ray.bench.pool.load import (
    Answered,
    closed_loop,
    for_seconds,
    ideal_latencies,
    longest_gap,
    open_loop,
    percentiles,
    poisson_arrivals,
    rate,
    signals,
    until_set,
)
from kd_ray.bench.pool.models import write_teachers
from kd_ray.bench.pool.processes import cpu_seconds_of, memory_of
from kd_ray.bench.pool.requests import (
    AnswersDiffer,
    check_answers,
    largest_difference,
    make_requests,
    wrong_because,
)
from kd_ray.bench.pool.round_trip import answer_with
from kd_ray.bench.pool.saturation import Turn, answer_here, ratios
from kd_ray.cli import main
from kd_ray.commands.bench import PartsFailed, bench_pool
from kd_ray.config.bench import BenchPoolConfig, BenchRequests
from kd_ray.config.load import ConfigError, check
from kd_ray.config.model import Recognizer
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

SMALL = BenchRequests(utterances=3, duration_s=0.3, positions=5, vocabulary_size=12)
POOL = {"command": "bench", "what": "pool", "name": "bench/few"}
MODEL = Recognizer.model_validate(
    {
        "encoder": {"cnn_channels": [4, 4], "rnn_layers": 1, "rnn_size": 8, "dnn_size": 8},
        "decoder": {"embedding_size": 8, "hidden_size": 8, "attention_size": 8},
    }
)


@pytest.fixture
def source():
    with_two = LocalSource(fake_loader(12)(fake_folders(2, 0), "cpu"))
    yield with_two
    with_two.close()


def pool_config(**changes) -> BenchPoolConfig:
    config = check({**POOL, **changes}, "test")
    assert isinstance(config, BenchPoolConfig)
    return config


# Goals.


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("ratio", 0.9, at_least=True), 0.9, True),
        (Goal("ratio", 0.9, at_least=True), 0.89, False),
        (Goal("ms", 3.0), 3.0, True),
        (Goal("ms", 3.0), 3.01, False),
        (Goal("ms", 3.0), math.nan, False),
    ],
)
def test_a_goal_is_met_up_to_its_limit_and_never_by_what_is_not_a_number(goal, value, met):
    judged = goal.judge(value)
    assert judged["met"] is met
    assert ("GOAL MISSED" in sentence(judged)) is not met


# Load.


@given(
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=30),
    st.floats(0.01, 2.0),
)
def test_the_ideal_server_takes_no_two_at_once_and_never_idles_while_one_waits(gaps, service_s):
    arrivals = np.cumsum(gaps).tolist()
    done = np.array(ideal_latencies(arrivals, service_s)) + arrivals
    begun = done - service_s
    assert begun[0] == pytest.approx(arrivals[0])
    for number in range(1, len(arrivals)):
        assert begun[number] == pytest.approx(max(arrivals[number], done[number - 1]))


def test_poisson_arrivals_have_the_rate_and_the_spread_of_their_process():
    gaps = np.diff(poisson_arrivals(5.0, 20_000))
    assert poisson_arrivals(5.0, 3) == poisson_arrivals(5.0, 3)
    assert poisson_arrivals(5.0, 3) != poisson_arrivals(5.0, 3, seed=1)
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() == pytest.approx(0.2, rel=0.05)


def test_the_rate_counts_intervals_inside_its_span():
    times = [0.0, 1.0, 1.5, 2.0, 2.5, 9.0]
    assert rate(times, 1.0, 3.0) == 2.0
    assert math.isnan(rate(times, 1.6, 2.1))


def test_the_longest_gap_reaches_from_the_ends_of_its_span():
    assert longest_gap([1.0, 2.0, 2.5], 0.0, 3.0) == 1.0
    assert longest_gap([1.0, 2.0, 2.5], 1.5, 4.0) == 1.5
    assert longest_gap([], 2.0, 7.0) == 5.0


def test_percentiles_of_known_numbers():
    found = percentiles(list(range(101)))
    assert found == {"p50_s": 50.0, "p95_s": 95.0, "p99_s": 99.0}


def test_a_closed_loop_answers_every_request_once_and_keeps_so_many_in_flight(source):
    requests = make_requests(SMALL, 7)
    open_now, most = 0, 0
    lock = threading.Lock()

    class Counting:
        def ask(self, request):
            nonlocal open_now, most
            with lock:
                open_now += 1
                most = max(most, open_now)
            pending = source.ask(request)

            class Pending:
                def result(self, timeout_s):
                    nonlocal open_now
                    time.sleep(0.02)
                    answer = pending.result(timeout_s)
                    with lock:
                        open_now -= 1
                    return answer

            return Pending()

    answered = closed_loop(Counting(), requests, 3)
    assert most == 3
    ids = [signal.utterance_ids for signal in signals(answered)]
    assert sorted(ids) == sorted(request.utterance_ids for request in requests)
    assert [each.done_s for each in answered] == sorted(each.done_s for each in answered)


def test_an_open_loop_counts_latency_from_when_a_request_was_due(source):
    class Slow:
        def ask(self, request):
            time.sleep(0.1)
            return source.ask(request)

    answered = open_loop(Slow(), make_requests(SMALL, 2), [0.0, 0.01, 0.02])
    # Whoever blocks in asking delays nobody else, and hides no time of his own.
    assert all(each.latency_s >= 0.1 for each in answered)
    assert max(each.done_s for each in answered) - min(each.asked_s for each in answered) < 1.0
    gaps = np.diff(sorted(each.asked_s for each in answered))
    np.testing.assert_allclose(gaps, 0.01, atol=1e-6)


def test_what_came_instead_of_an_answer_is_kept_and_raised_when_answers_are_wanted(source):
    class Broken:
        def ask(self, request):
            raise ArithmeticError(request.utterance_ids[0])

    answered = closed_loop(Broken(), make_requests(SMALL, 2), 2)
    assert [type(each.answer) for each in answered] == [ArithmeticError, ArithmeticError]
    with pytest.raises(ArithmeticError, match="0-"):
        signals(answered)


def test_requests_go_round_until_time_or_an_event_ends_them():
    stop = threading.Event()
    feed = until_set("ab", stop)
    assert [next(feed) for _ in range(3)] == ["a", "b", "a"]
    stop.set()
    assert list(feed) == []
    assert set(for_seconds("ab", 0.05)) == {"a", "b"}


# Teachers and answers.


def test_fakes_say_different_things_and_travel_to_a_host():
    load = pickle.loads(pickle.dumps(fake_loader(12, pass_s=0.25)))
    free, waiting = load([*fake_folders(1, 0), *fake_folders(0, 1)], "cpu")
    assert (free.pass_s, waiting.pass_s) == (0.0, 0.25)
    (request,) = make_requests(SMALL, 1)
    first = answer_with(free, request.audio, request).tokens
    again = answer_with(BenchTeacher(0, 12), request.audio, request).tokens
    other = answer_with(BenchTeacher(1, 12), request.audio, request).tokens
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, other) > 0.01
    np.testing.assert_allclose(np.exp(first.log_probs).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(first.lengths, SMALL.positions)


def test_a_waiting_teacher_waits():
    (teacher,) = fake_loader(12, pass_s=0.05)(fake_folders(0, 1), "cpu")
    (request,) = make_requests(SMALL, 1)
    started = time.perf_counter()
    answer_with(teacher, request.audio, request)
    assert time.perf_counter() - started >= 0.05


def test_answers_are_compared_by_teachers_utterances_and_distributions(source):
    one, two = make_requests(SMALL, 2)
    mine, other = source.ask(one).result(10), source.ask(two).result(10)
    assert wrong_because(mine, source.ask(one).result(10)) is None
    assert "other utterances" in wrong_because(mine, other)
    assert "teachers (0,)" in wrong_because(dataclasses.replace(mine, answered=(0,)), mine)
    shifted = dataclasses.replace(mine.tokens, log_probs=mine.tokens.log_probs + 0.01)
    wrong = dataclasses.replace(mine, tokens=shifted)
    with pytest.raises(AnswersDiffer, match="0-0-0: its distributions differ"):
        check_answers([(wrong, mine)])
    broken = dataclasses.replace(mine.tokens, log_probs=mine.tokens.log_probs * np.nan)
    assert wrong_because(dataclasses.replace(mine, tokens=broken), mine) is not None
    # What stands behind the last position counts for nothing.
    padded = mine.tokens.log_probs.copy()
    padded[:, -1] += 1.0
    shorter = mine.tokens.lengths - 1
    assert (
        largest_difference(
            dataclasses.replace(mine.tokens, log_probs=padded, lengths=shorter), mine.tokens
        )
        == 0.0
    )


def test_written_teachers_are_checkpoints_with_weights_of_their_own(tmp_path):
    folders = write_teachers(tmp_path, MODEL, 12, 3)
    teachers = [load_teachers([folder])[0] for folder in folders]
    assert len({teacher.info.digest for teacher in teachers}) == 3
    assert len({teacher.info.tokens_digest for teacher in teachers}) == 1
    (request,) = make_requests(SMALL, 1)
    first, second = (answer_here(teacher, request)[0] for teacher in teachers[:2])
    assert largest_difference(first.tokens, second.tokens) > 0
    # In this process as by a source: what is compared with a pool is what a pool does.
    source = LocalSource(teachers[:1])
    check_answers([(first, source.ask(request).result(10))])
    source.close()


# Parts.


def test_ratios_are_medians_of_rounds_and_not_of_times():
    turns = [
        (Turn(1.0, 0.8), Turn(0.9, 0.8, 0.6)),
        (Turn(4.0, 3.2), Turn(4.0, 1.6, 3.0)),
        (Turn(2.0, 1.6), Turn(1.6, 1.6, 1.0)),
    ]
    found = ratios(turns, 8)
    assert found["to_in_process"] == pytest.approx(0.9)
    assert found["to_model_alone"] == pytest.approx(0.6)
    assert found["host_cpu_to_in_process"] == pytest.approx(1.0)
    assert found["requests_per_s"] == pytest.approx(4.0)


def test_efficiency_is_of_one_hosts_share_even_where_none_was_measured_alone():
    assert scaling.efficiencies({1: 10.0, 2: 18.0, 4: 40.0}) == {1: 1.0, 2: 0.9, 4: 1.0}
    assert scaling.efficiencies({2: 20.0, 4: 20.0}) == {2: 1.0, 4: 0.5}


def test_losses_of_a_failover_are_counted_by_kind(source):
    requests = make_requests(SMALL, 4)
    right = [source.ask(request).result(10) for request in requests]
    expected = {signal.utterance_ids: signal for signal in right}
    wrong = dataclasses.replace(
        right[2],
        tokens=dataclasses.replace(right[2].tokens, log_probs=right[2].tokens.log_probs + 0.1),
    )
    twice = dataclasses.replace(right[3], answered=(0, 1, 1))
    answers = [right[0], TimeoutError("gone"), wrong, twice]
    answered = [
        Answered(request, asked_s=number, done_s=number + 1.0, answer=answer)
        for number, (request, answer) in enumerate(zip(requests, answers, strict=True))
    ]
    found = failover.judge_answers(answered, expected, began_s=0.0, killed_s=1.5)
    assert (found["requests"], found["lost"], found["wrong"], found["twice"]) == (4, 1, 2, 1)
    assert found["errors"] == ["TimeoutError('gone')"]
    assert found["longest_without_answer_s"] == 1.5
    assert found["first_answer_s"] == 1.5


def test_events_are_found_and_waited_for_from_a_time_on():
    events = Events()
    events("host_died", host="a")
    since = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"no host_died within 0\.01 s; told was: host_died"):
        events.wait_for("host_died", since, 0.01)
    threading.Timer(0.05, events, ("host_died",), {"host": "b"}).start()
    assert events.wait_for("host_died", since, 10).details == {"host": "b"}
    assert events.since(0.0, "host_died").details == {"host": "a"}


def test_the_kernel_knows_this_process():
    before = cpu_seconds_of(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert cpu_seconds_of(os.getpid()) >= before + 0.03
    memory = memory_of(os.getpid())
    assert 0 < memory.own <= memory.resident <= memory.peak


# Configuration and command.


def test_the_configuration_of_the_pool_names_all_parts_by_default():
    assert set(pool_config().parts) == set(measure.PARTS)
    with pytest.raises(ConfigError, match=r"parts\.0"):
        pool_config(parts=["latency"])


@pytest.mark.parametrize("part", ["bytes", "scaling"])
def test_no_part_asks_for_more_hosts_than_the_fleet_has(part):
    with pytest.raises(ConfigError, match=rf"{part}\.hosts is \[1, 8\] and fleet\.hosts is 4"):
        pool_config(**{part: {"hosts": [1, 8]}})


@pytest.mark.parametrize("key", ["model", "registered.model"])
def test_a_teacher_that_reads_text_is_refused(key):
    section = {"type": "text_to_text"}
    changes = {"model": section} if key == "model" else {"registered": {"model": section}}
    with pytest.raises(ConfigError, match=rf"{key} is of type text_to_text"):
        pool_config(**changes)


def test_a_part_that_fails_loses_none_of_the_others_figures(tmp_path, monkeypatch):
    def fails(setup):
        raise ArithmeticError("overflow")

    parts = {
        **measure.PARTS,
        "tail": fails,
        "bytes": lambda setup: {"goals": [Goal("size", 1.0).judge(2.0)], "rows": [{"hosts": 1}]},
    }
    monkeypatch.setattr(measure, "PARTS", parts)
    config = pool_config(parts=["bytes", "tail"])
    with pytest.raises(PartsFailed, match="part tail: ArithmeticError: overflow"):
        bench_pool(config, tmp_path)
    written = json.loads((tmp_path / "runs/bench/few/pool.json").read_text())
    assert set(written["parts"]) == {"bytes", "tail"}
    assert written["parts"]["bytes"]["goals"][0]["met"] is False
    assert written["parts"]["tail"]["failed"] == "ArithmeticError: overflow"
    assert "environment" in written


def test_figures_become_lines_of_the_log():
    figures = {
        "ms": 1.23456,
        "name": "x",
        "met": True,
        "split": {"2": {"rate": 3.0}},
        "rows": [{"hosts": 1}, {"hosts": 2}],
    }
    lines = measure.flat_lines(figures)
    assert lines == ["ms 1.235, name x", "split: 2: rate 3", "hosts 1", "hosts 2"]


def test_the_command_refuses_a_file_for_something_else(tmp_path, capsys):
    path = Path(tmp_path / "pool.yaml")
    path.write_text("command: bench\nwhat: pool\n")
    assert main(["bench", "sparse", str(path)]) == 2
    assert "for `kd-ray bench pool`, not for `kd-ray bench sparse`" in capsys.readouterr().err
