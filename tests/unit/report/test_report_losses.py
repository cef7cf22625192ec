"""A run's page says which teachers were lost, why, for how long, and what was done about it."""

from pathlib import Path

import numpy as np
from report_folders import write_run

from kd_ray.core.contracts import Signal
from kd_ray.report.losses import losses, missing_teachers
from kd_ray.report.run_sections import runs_section
from kd_ray.report.runs import read_run
from kd_ray.students.signal_statistics import SignalStatistics

EVENTS = [
    {"time": 1.0, "kind": "teacher_host_left_out", "host": "host-1", "teachers": ["a", "b"],
     "reason": "no answer after 2.0 s"},
    *[{"time": 2.0, "kind": "teachers_asked_elsewhere", "host": "host-1", "teachers": ["a"],
       "reason": "late"}] * 60,
    {"time": 3.0, "kind": "signal_shortened", "missing": ["b"], "reason": "1 of 2"},
    {"time": 4.0, "kind": "host_died", "host": "host-1", "reason": "silent for 6.0 s"},
    {"time": 5.0, "kind": "host_started_again", "host": "host-1", "seconds": 4.0, "pid": 7},
    {"time": 6.0, "kind": "teacher_host_left_out", "host": "host-1", "teachers": ["a", "b"],
     "reason": "ActorDiedError"},
    {"time": 7.0, "kind": "teacher_quarantined", "teacher": "c", "index": 2, "reason": "NaN"},
    {"time": 8.0, "kind": "signal_shortened", "missing": ["b", "c"], "reason": "1 of 3"},
    {"time": 9.0, "kind": "teacher_memory_full", "teacher": "a", "index": 0, "reason": "32"},
]  # fmt: skip
SIGNAL = {"shortened_signals": 12, "missing_teacher_answers": 15}


def test_losses_name_hosts_teachers_reasons_and_counts():
    rows = dict(losses(EVENTS, SIGNAL))
    assert rows["host host-1"] == (
        "left out 2 times (ActorDiedError); died (silent for 6.0 s); started again"
    )
    assert rows["teacher c"] == "quarantined (NaN)"
    assert rows["teacher a"] == "answered by halves, as memory was full (32)"
    assert rows["missing in 12 signals, 15 answers in all"] == "teachers: b, c"
    assert rows["asked elsewhere"] == "60 times: 60 for host-1"
    assert missing_teachers(EVENTS) == ["b", "c"]


def test_nothing_lost_is_no_section(tmp_path: Path):
    assert losses([{"kind": "resumed"}], {"missing_teacher_answers": 0}) == []
    whole = write_run(tmp_path / "w", "w", command="distill", strategy="best", final_error=20)
    page = str(runs_section([read_run(whole, "w", "student")]))
    assert "Losses of teachers" not in page


def test_the_page_shows_losses_and_does_not_list_each_question_asked_elsewhere(tmp_path: Path):
    folder = write_run(
        tmp_path / "r", "r", command="distill", strategy="best", final_error=20, events=EVENTS
    )
    page = str(runs_section([read_run(folder, "r", "student")]))
    assert "Losses of teachers" in page
    assert "asked elsewhere" in page
    # Counted in the heading of the events, listed nowhere.
    assert page.count("teachers_asked_elsewhere") == 1
    assert "teacher_quarantined" in page


def test_the_page_shows_how_many_workers_there_were_and_why(tmp_path: Path):
    sizes = [(None, 2, "the first group"), (2, 1, "lost with their nodes: 1 on b")]
    events = [
        {"time": 1.0, "kind": "worker_count", "before": before, "now": now, "most": 2,
         "reason": reason, "nodes": ["a", "b"][:now]}
        for before, now, reason in sizes
    ]  # fmt: skip
    folder = write_run(
        tmp_path / "c", "c", command="distill", strategy="best", final_error=20, events=events
    )
    page = str(runs_section([read_run(folder, "c", "student")]))
    assert "<h4>Workers</h4>" in page
    assert "<td>1 of at most 2</td><td>lost with their nodes: 1 on b</td>" in page


def test_signals_that_lack_teachers_are_counted_and_add_up_over_workers():
    def signal(answered):
        nothing = np.zeros((3, 1))
        return Signal(
            utterance_ids=("u",),
            tokens=None,
            labels=None,
            weights_tokens=nothing,
            weights_labels=nothing,
            ctc_errors=np.full((3, 1), -1),
            decoder_errors=np.full((3, 1), -1),
            reference_lengths=np.array([-1]),
            answered=answered,
            num_teachers=3,
        )

    statistics = SignalStatistics()
    for answered in ((0, 1, 2), (0,), (1, 2)):
        statistics.add(signal(answered), "ctc_greedy")
    both = SignalStatistics.from_list([2 * value for value in statistics.to_list()])
    told = both.summary()["signal"]
    assert (told["missing_teacher_answers"], told["shortened_signals"]) == (6, 4)
