"""What samples of a soak say: leaks are found, kills are no leaks."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.bench.soak.pages import write_samples
from kd_ray.bench.soak.processes import Memory, Process, descendants, kind_of, look, memory_of
from kd_ray.bench.soak.verdict import Sample, computed_s, judge, lives, slope_within

MIB = 1 << 20


def samples(size_of, *, minutes=30, every_s=5, store_mib=1.0):
    """`size_of(seconds)`: (pid, MiB) of each host."""
    return [
        Sample(
            float(at_s),
            tuple(Process(pid, "host", Memory(0, 0, int(mib * MIB))) for pid, mib in size_of(at_s)),
            int(store_mib * MIB),
            4,
            0,
            at_s,
        )
        for at_s in range(0, 60 * minutes, every_s)
    ]


def verdict(found, **limits):
    limits = {"warm_up_s": 120, "max_mib_per_hour": 40, "max_store_mib": 64, **limits}
    return judge(found, kinds=["host"], **limits)


def test_a_flat_pool_is_sound_whatever_its_hosts_do():
    """One host is started again every five minutes: it begins small and warms up."""
    noise = np.random.default_rng(0)

    def sizes(at_s):
        age_s = at_s % 300
        warm = 200 + min(age_s, 60)
        return [(1, 300 + noise.normal(0, 2)), (2 + at_s // 300, warm + noise.normal(0, 2))]

    figures, problems = verdict(samples(sizes))
    assert problems == []
    slope = figures["memory"]["host"]["slope"]
    assert slope["low"] < 0 < slope["high"]
    assert abs(slope["mib_per_hour"]) < 5


def test_a_leak_is_found_behind_restarts():
    """Sums stay level, as each start forgets what leaked before."""
    noise = np.random.default_rng(0)

    def sizes(at_s):
        return [(10 + at_s // 300, 200 + (at_s % 300) / 60 + noise.normal(0, 0.5))]

    figures, problems = verdict(samples(sizes))
    memory = figures["memory"]["host"]
    assert memory["slope"]["mib_per_hour"] == pytest.approx(60, rel=0.2)
    sums = memory["mib_of_all"]
    assert abs(sums["last_quarter"] - sums["second_quarter"]) < 1
    assert len(problems) == 1
    assert "memory of a host process grows by" in problems[0]


def test_a_full_store_is_told():
    _, problems = verdict(samples(lambda at_s: [(1, 100.0)], store_mib=65))
    assert problems == ["the object store held 65.0 MiB, allowed are 64"]


def test_processes_that_stay_behind_are_told():
    """One more every five minutes."""
    _, problems = verdict(
        samples(lambda at_s: [(number, 100.0) for number in range(1 + at_s // 300)])
    )
    assert len(problems) == 1
    assert "in the last quarter there were 5." in problems[0]


def test_computation_is_counted_from_the_first_sample_on():
    def at(at_s, *processes):
        found = [Process(pid, "host", Memory(0, 0, 0), cpu_s) for pid, cpu_s in processes]
        return Sample(at_s, tuple(found), 0, 0, 0, 0)

    found = [at(0, (1, 50.0)), at(5, (1, 52.0), (2, 3.0)), at(10, (1, 54.0)), at(15, (3, 1.0))]
    assert computed_s(found) == 4 + 3 + 1


def test_few_samples_say_nothing_of_a_slope():
    figures, problems = verdict(samples(lambda at_s: [(1, at_s)], minutes=3))
    assert figures["memory"]["host"]["slope"] is None
    assert problems == []


def test_the_first_minutes_of_each_process_do_not_count():
    found = lives(samples(lambda at_s: [(1 + (at_s >= 600), 1.0)], minutes=20), "host", 120)
    assert [series[0][0] for series in found] == [120, 720]


@given(
    slope=st.floats(-100, 100),
    levels=st.lists(st.floats(0, 500), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_common_slope_is_found_whatever_the_levels(slope, levels, seed):
    noise = np.random.default_rng(seed)
    times = np.arange(0, 1800, 5)
    series = [
        [(t, (level + slope * t / 3600 + noise.normal(0, 0.1)) * MIB) for t in times]
        for level in levels
    ]
    found = slope_within(series)
    assert found.mib_per_hour == pytest.approx(slope, abs=0.5)
    assert found.error < 0.2
    assert found.samples == len(times) * len(levels)


def test_neighbours_that_are_alike_make_a_slope_less_sure():
    noise = np.random.default_rng(1)
    times = np.arange(0, 1800, 5)
    white = noise.normal(0, 1, len(times))
    slow = np.repeat(noise.normal(0, 1, len(times) // 20 + 1), 20)[: len(times)]
    errors = [slope_within([list(zip(times, each * MIB, strict=True))]).error
              for each in (white, slow)]  # fmt: skip
    assert errors[1] > 2 * errors[0]


def test_processes_below_this_one_are_seen():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in descendants(os.getpid())
        memory = memory_of(child.pid)
        assert 0 < memory.private <= memory.pss <= memory.rss
        kinds = {each.pid: each.kind for each in look()}
        assert kinds[os.getpid()] == "driver"
        assert kinds[child.pid] == "other"
    finally:
        child.communicate(b"\n")
    assert child.pid not in descendants(os.getpid())
    assert memory_of(child.pid) is None


def test_kinds_of_processes_by_their_command_lines():
    assert kind_of("ray::HostProcess.answer") == "host"
    assert kind_of("ray::PoolManager") == "manager"
    assert kind_of("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=...") == "raylet"
    assert kind_of("/x/ray/core/src/ray/gcs/gcs_server --log_dir=...") == "gcs"
    assert kind_of("ray::IDLE") == "other"


def test_samples_are_written_as_tables_and_a_plot(tmp_path):
    found = samples(lambda at_s: [(1, 100.0), (2, 50.0)], minutes=2)
    write_samples(tmp_path, found, [{"at_s": 30.0, "kind": "kill", "pid": 2}])
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert len(rows) == len(found)
    assert float(rows[0]["host_private_mib"]) == 150
    rows = list(csv.DictReader((tmp_path / "processes.csv").open()))
    assert len(rows) == 2 * len(found)
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")
