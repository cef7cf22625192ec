"""Progress as people see it: lines in a log, bars on a terminal."""

import io
import logging
import sys

import pytest

from kd_ray.evaluation.heartbeat import Work
from kd_ray.report.progress import Display, Seldom, lasting, line_of, paced, progress


class Clock:
    def __init__(self):
        self.s = 0.0

    def __call__(self):
        return self.s


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (245, "4 min"), (3600, "1 h"),
     (3599, "1 h"), (8000, "2 h 13 min"), (86_400 * 3 + 7200, "3 d 2 h")],
)  # fmt: skip
def test_durations_read_well(seconds, text):
    assert lasting(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(31.4, "31 updates/s"), (3.14, "3.1 updates/s"), (0.5, "30 updates/min"),
     (0.02, "1.2 updates/min"), (0.001, "3.6 updates/h"), (0.0001, "0.4 updates/h")],
)  # fmt: skip
def test_rates_read_well(rate, text):
    assert paced(rate, "updates") == text


def test_a_line_says_where_the_work_is_and_how_long_it_takes():
    work = Work("training", 340, 1200, "updates", epoch=3, epochs=12)
    assert line_of("a", work, 3.1, 240) == (
        "a  epoch 3/12  update 340/1200  28 %  3.1 updates/s  4 min left"
    )
    assert line_of("b", Work("decoding", 7, None, "utterances"), None, None) == "b  7 utterances"
    assert line_of("c", Work("decoding", 7, 7, "utterances"), 2.0, 0.0) == (
        "c  7/7 utterances  100 %  2.0 utterances/s"
    )


def test_lines_are_rare():
    clock = Clock()
    seldom = Seldom(clock)
    told = []
    for second in range(1, 301):
        clock.s = second
        if seldom.due(second / 300):
            told.append(second)
    assert told == list(range(30, 301, 30))


def test_quick_work_gets_a_line_a_tenth_but_none_too_soon():
    clock = Clock()
    seldom = Seldom(clock)
    told = []
    for second in range(1, 101):
        clock.s = second
        if seldom.due(second / 100):
            told.append(second)
    assert told == list(range(10, 101, 10))
    clock.s = 105
    assert not seldom.due(1.0)


def at_work(count):
    return {f"run-{n}": (Work("training", n, 100), 1.0, 9.0) for n in range(count)}


def test_a_log_gets_lines_of_few_runs_and_one_line_for_many(caplog):
    clock = Clock()
    with caplog.at_level(logging.INFO), Display(io.StringIO(), clock) as display:
        display.show(at_work(3))
        assert not caplog.messages
        clock.s = 31
        display.show(at_work(3))
        assert len(caplog.messages) == 3
        assert caplog.messages[2].startswith("run-2  update 2/100  2 %")
        clock.s = 62
        display.show(at_work(40))
        assert caplog.messages[3:] == ["40 at work: 0 % (run-0) to 39 % (run-39)"]
        clock.s = 93
        display.show({})
        assert len(caplog.messages) == 4


def test_short_work_says_nothing_in_a_log(caplog, capsys):
    with caplog.at_level(logging.INFO), progress("decoding", "utterances", 3) as task:
        for _ in range(3):
            task.advance()
    assert not caplog.messages
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_bars_below_what_is_logged(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("kd_ray")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with progress("speaking", "utterances", 10) as task:
            task.at(5)
            logger.info("a line [bold] meanwhile")
            task.at(10)
        logger.info("a line afterwards")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert sys.stdout is out
    assert handler.stream is out
    text = out.getvalue()
    assert "speaking" in text
    assert "10/10 utterances" in text
    assert "a line [bold] meanwhile\n" in text
    assert text.endswith("a line afterwards\n")
    # The cursor is there again.
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_output_that_goes_to_a_pipe_has_no_lines_of_progress_in_it(caplog):
    clock = Clock()
    with caplog.at_level(logging.INFO), Display(io.StringIO(), clock, lines=False) as display:
        clock.s = 100
        display.show(at_work(1))
    assert not caplog.messages
