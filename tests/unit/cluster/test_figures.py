"""Figures for Prometheus, told to instruments of the test's own; and the dashboard's names."""

import asyncio
import json
import re
from collections import defaultdict
from dataclasses import replace

import pytest
from doubles import FakeTeacher, request
from yaml_files import CHECKOUT

from kd_ray.cluster.metrics import SERIES, HostFigures, PoolFigures, TrainingFigures
from kd_ray.cluster.metrics.series import OTHERS, Instruments, Names, job_label
from kd_ray.cluster.pool.address import hosts_prefix, place_of
from kd_ray.teachers.answers import Call
from kd_ray.teachers.batching.statistics import JobStatistics
from kd_ray.teachers.cache import Lookups
from kd_ray.teachers.costs import Costs, JobCost
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.latency import LatencyHistogram, bin_middles

DASHBOARD = CHECKOUT / "configs" / "cluster" / "grafana" / "kd_ray.json"


class Told:
    """Stands for Ray's metrics: what was told, by name and tags."""

    def __init__(self):
        self.values = defaultdict(float)
        self.observed = defaultdict(list)

    def make(self, series):
        told = self

        class Instrument:
            def key(self, tags):
                assert tuple(sorted(tags)) == tuple(sorted(series.tags)), series.name
                assert all(isinstance(value, str) for value in tags.values())
                return (series.name, *(tags[key] for key in series.tags))

            def inc(self, value, tags):
                assert series.kind == "counter"
                assert value > 0
                told.values[self.key(tags)] += value

            def set(self, value, tags):
                assert series.kind == "gauge"
                told.values[self.key(tags)] = value

            def observe(self, value, tags):
                assert series.kind == "histogram"
                told.observed[self.key(tags)].append(value)

        return Instrument()

    def instruments(self, **always):
        return Instruments(self.make, **always)


def panels():
    content = json.loads(DASHBOARD.read_text())
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def test_the_dashboard_shows_every_series_and_no_other():
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    shown = {name for query in queries for name in re.findall(r"\bray_kd_ray_\w+", query)}
    assert shown == {series.in_prometheus for series in SERIES.values()}


def test_queries_ask_for_labels_that_their_series_have():
    by_name = {series.in_prometheus: series for series in SERIES.values()}
    of_ray = {"le", "WorkerId", "instance"}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count("(") == expression.count(")"), panel["title"]
            names = re.findall(r"\bray_kd_ray_\w+", expression)
            tags = {tag for name in names for tag in by_name[name].tags}
            for labels in re.findall(r"by \(([^)]*)\)", expression) if names else ():
                assert set(labels.split(", ")) <= tags | of_ray, panel["title"]
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]) if names else ():
                assert label in tags, panel["title"]


def test_a_chosen_search_shows_figures_of_its_trials():
    """The choice is of names in counters, one for all trials; gauges have those of runs."""
    by_name = {series.in_prometheus: series for series in SERIES.values()}
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    selected = [found for query in queries
                for found in re.findall(r'(ray_kd_ray_\w+){job=~"([^"]+)"}', query)]  # fmt: skip
    training = {name for name, series in by_name.items() if series.tags[0] == "job"}
    assert {name for name, _ in selected} == training
    for name, pattern in selected:
        label = str if by_name[name].kind == "gauge" else job_label
        for chosen, job, shown in (
            ("demo/search", "demo/search/trials/x-s1", True), ("demo/a", "demo/a", True),
            ("demo/search", "demo/search2/trials/x-s1", False), ("demo/a", "demo/ab", False),
            (".*", "demo/search/trials/x-s1", True),
        ):  # fmt: skip
            found = re.fullmatch(pattern.replace("$job", chosen), label(job))
            assert (found is not None) == shown, (name, chosen, job)


def test_panels_have_numbers_and_places_of_their_own():
    content = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in content["panels"]]
    assert len(set(places)) == len(places)
    assert [each["name"] for each in content["templating"]["list"]] == [
        "datasource", "pool", "job"
    ]  # fmt: skip


def test_rays_own_figures_are_on_the_dashboard():
    text = DASHBOARD.read_text()
    for name in ("ray_object_store_memory", "ray_spill_manager_objects_bytes",
                 "ray_node_gpus_utilization", "ray_node_gram_used"):  # fmt: skip
        assert name in text
    assert not [name for name in SERIES if "spill" in name]


def ask(host, *jobs):
    async def answers():
        for number, job in enumerate(jobs):
            await host.answer(request(number), Call(job=job))

    asyncio.run(answers())


def test_a_host_tells_what_is_new():
    told, host = Told(), TeacherHost([FakeTeacher(1), FakeTeacher(2)])
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    names = {0: "first", 1: "second"}
    ask(host, "a", "a", "b")
    rows = sum(cost.rows for cost in host.status.costs.values())
    for _ in range(2):
        # What was told is not told again.
        figures.tell(host.status, names)
        assert told.values["kd_ray_requests", "p", "0", "a"] == 2
        assert told.values["kd_ray_requests", "p", "0", "b"] == 1
        assert sum(v for k, v in told.values.items() if k[0] == "kd_ray_rows") == rows
        assert len(told.observed["kd_ray_answer_seconds", "p", "0"]) == 3
        passes = host.status.batches.passes
        assert told.values["kd_ray_passes", "p", "0"] == passes
        assert len(told.observed["kd_ray_batch_utterances", "p", "0"]) == passes
        assert told.values["kd_ray_open_requests", "p", "0"] == 0
        assert told.values["kd_ray_resident_teachers", "p", "0"] == 2
    busy = [told.values["kd_ray_teacher_seconds", "p", "0", name] for name in names.values()]
    assert busy == pytest.approx([host.status.busy_s[index] for index in names])
    ask(host, "a")
    figures.tell(host.status, names)
    assert told.values["kd_ray_requests", "p", "0", "a"] == 3
    assert len(told.observed["kd_ray_answer_seconds", "p", "0"]) == 4


def test_errors_quarantines_and_caches_are_told():
    told, host = Told(), TeacherHost([FakeTeacher(1)])
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    status = replace(
        host.status, errors={"Expired": 2, "LoadFailed": 1}, quarantined={0: "answered NaN"},
        stored=Lookups(hits=5, misses=2), held={"a": 3, "b": 1},
    )  # fmt: skip
    figures.tell(status, {0: "first"})
    assert told.values["kd_ray_errors", "p", "0", "Expired"] == 2
    assert told.values["kd_ray_quarantined", "p", "0", "first"] == 1
    assert told.values["kd_ray_cache_hits", "p", "0", "store"] == 5
    assert told.values["kd_ray_cache_misses", "p", "0", "store"] == 2
    assert told.values["kd_ray_held_requests", "p", "0"] == 4


def test_hundreds_of_teachers_and_jobs_have_few_labels_and_lose_no_counts():
    told, host = Told(), TeacherHost([FakeTeacher(1)])
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    ask(host, *(f"job-{number}" for number in range(40)))
    status = replace(host.status, busy_s=dict.fromkeys(range(500), 1.0))
    figures.tell(status, {})
    figures.tell(status, {})
    for name, most, total in (("kd_ray_requests", 33, 40), ("kd_ray_teacher_seconds", 129, 500)):
        found = {key: value for key, value in told.values.items() if key[0] == name}
        assert len(found) == most
        assert sum(found.values()) == pytest.approx(total)
        assert any(key[-1] == OTHERS for key in found)


def host_status(**changes):
    return replace(TeacherHost([FakeTeacher(1)]).status, **changes)


def test_hundreds_of_trials_are_counted_once():
    told, costs = Told(), Costs()
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    for trial in range(300):
        costs.add(f"demo/search/trials/{trial}", JobCost(requests=1000))
        # Of others', and of a trial that has been moved to the earlier ones.
        costs.add("demo/student", JobCost(requests=1))
        costs.add("demo/search/trials/0", JobCost(requests=2))
        figures.tell(host_status(costs=costs.by_job), {})
    assert len(costs.by_job) == 256
    found = {key[-1]: value for key, value in told.values.items() if key[0] == "kd_ray_requests"}
    assert found["demo/search"] == 300 * 1002
    assert found["demo/student"] == 300
    assert sum(found.values()) == 300 * 1003


def test_what_jobs_did_before_they_were_added_up_is_not_lost():
    told, costs = Told(), Costs()
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    for number in range(1000):
        costs.add(f"job-{number}", JobCost(rows=3))
        if number % 100 == 99:
            # Before each look most of what is new has gone.
            figures.tell(host_status(costs=costs.by_job), {})
    costs.add("job-0", JobCost(rows=1))
    for number in range(1000, 1400):
        costs.add(f"job-{number}", JobCost(rows=3))
    figures.tell(host_status(costs=costs.by_job), {})
    found = {key[-1]: value for key, value in told.values.items() if key[0] == "kd_ray_rows"}
    assert sum(found.values()) == 1400 * 3 + 1
    assert len(found) == 33


def test_a_teacher_that_leaves_and_comes_back_is_counted_once():
    told = Told()
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    busy_s = dict.fromkeys(range(200), 10.0)
    for gone in (None, 150, 3, None):
        here = {index: s for index, s in busy_s.items() if index != gone}
        figures.tell(host_status(busy_s=here), {})
    found = {key[-1]: v for key, v in told.values.items() if key[0] == "kd_ray_teacher_seconds"}
    assert sum(found.values()) == 2000.0
    assert found[OTHERS] == 720.0


def test_waits_of_jobs_are_told_while_others_are_forgotten():
    told = Told()
    figures = HostFigures("p", "0", told.instruments(pool="p", host="0"))
    jobs = {name: JobStatistics() for name in "ab"}
    for _ in range(5):
        jobs["a"].waits.record(0.1)
    figures.tell(host_status(jobs=dict(jobs)), {})
    jobs["b"].waits.record(0.1)
    figures.tell(host_status(jobs={"b": jobs["b"].copy()}), {})
    assert len(told.observed["kd_ray_wait_seconds", "p", "0"]) == 6


def test_trials_of_a_search_are_one_job():
    assert job_label("demo/search/trials/ab12-s1") == "demo/search"
    assert job_label("demo/students/a") == "demo/students/a"


def test_names_stay_few():
    names = Names(2)
    assert [names(each) for each in ("a", "b", "c", "a", "d")] == ["a", "b", OTHERS, "a", OTHERS]


def test_a_total_that_begins_anew_goes_on():
    told = Told()
    instruments = told.instruments(pool="p")
    for total in (3, 5, 5, 2, 4):
        instruments.total("kd_ray_pool_deaths", total)
    assert told.values["kd_ray_pool_deaths", "p"] == 9


def test_middles_of_bins_fall_into_their_bins():
    histogram = LatencyHistogram()
    for middle in bin_middles()[1:-1]:
        histogram.record(middle)
    assert histogram.counts == [0, *[1] * (len(histogram.counts) - 2), 0]


def test_a_host_s_name_is_taken_apart_again():
    assert place_of(f"{hosts_prefix('my-host-pool')}12") == ("my-host-pool", "12")


def test_a_pool_tells_its_size():
    told = Told()
    figures = PoolFigures("p", told.instruments(pool="p"))
    figures.tell(up=2, down=1, teachers=8, jobs=3, deaths=1, respawns=1)
    assert told.values["kd_ray_pool_hosts", "p", "up"] == 2
    assert told.values["kd_ray_pool_hosts", "p", "down"] == 1
    assert told.values["kd_ray_pool_deaths", "p"] == 1


def test_a_training_tells_amounts_and_how_it_stands():
    told = Told()
    figures = TrainingFigures("s/trials/x", told.instruments())
    for update in (1, 2):
        figures.metrics({
            "kind": "train", "update": update, "epoch": 1, "loss": 3.0 - update, "kd_ctc": 1.0,
            "lr": 0.1, "grad_norm": 2.0, "utterances": 8, "tokens": 40, "frames": 900,
            "data_s": 0.25, "teacher_wait_s": 0.5, "student_s": 1.0, "beta": 0.5,
        })  # fmt: skip
    figures.metrics({"kind": "train", "update": 3, "epoch": 1, "loss": float("nan")})
    figures.metrics({"kind": "valid", "update": 3, "epoch": 1, "error_rate": 9.0,
                     "error_rate_ctc": 9.0, "best_error_rate": 8.0})  # fmt: skip
    figures.event("skipped_update", update=3)
    figures.tell()
    assert told.values["kd_ray_train_updates", "s"] == 3
    assert told.values["kd_ray_train_tokens", "s"] == 80
    assert told.values["kd_ray_train_seconds", "s", "teacher"] == 1.0
    assert told.values["kd_ray_train_loss", "s/trials/x", "loss"] == 1.0
    assert told.values["kd_ray_train_loss", "s/trials/x", "kd_ctc"] == 1.0
    assert told.values["kd_ray_valid_error", "s/trials/x", "ctc"] == 9.0
    assert told.values["kd_ray_valid_error", "s/trials/x", "selected"] == 9.0
    assert told.values["kd_ray_valid_best_error", "s/trials/x"] == 8.0
    assert told.values["kd_ray_train_beta", "s/trials/x"] == 0.5
    assert told.values["kd_ray_train_events", "s", "skipped_update"] == 1
    figures.tell()
    assert told.values["kd_ray_train_updates", "s"] == 3


def test_the_last_updates_of_a_training_are_told_at_its_end():
    told = Told()
    with TrainingFigures("a", told.instruments()) as figures:
        figures.metrics({"kind": "train", "update": 1, "epoch": 1, "loss": 1.0})
    assert told.values["kd_ray_train_updates", "a"] == 1


def test_a_training_whose_figures_cannot_be_told_goes_on(caplog):
    def broken(series):
        raise RuntimeError("no agent")

    with TrainingFigures("a", Instruments(broken)) as figures:
        figures.metrics({"kind": "train", "update": 1, "epoch": 1, "loss": 1.0})
    assert "could not be told" in caplog.text
