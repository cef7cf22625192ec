"""The soak in its short form: `kd-ray bench soak` as a user runs it."""

import csv
import json

import pytest
from yaml_files import finish, kd_ray, write_config

pytestmark = pytest.mark.slow


def test_a_pool_under_load_loses_nothing_while_its_processes_are_killed(tmp_path):
    config = {
        "command": "bench",
        "what": "soak",
        "name": "soak",
        "minutes": 1.25,
        "teachers": 3,
        "clients": 3,
        "questions": 24,
        # Faults of all kinds within the first minute.
        "seed": 1,
        "fault_every_s": 14,
        "sample_every_s": 2,
        "warm_up_s": 20,
        # What a minute says of an hour.
        "max_mib_per_hour": 3000,
    }
    path = write_config(tmp_path / "soak.yaml", config)
    output = finish(kd_ray("bench", "soak", path, root=tmp_path), timeout_s=900)
    folder = tmp_path / "runs" / "soak"
    figures = json.loads((folder / "soak.json").read_text())
    assert figures["problems"] == []
    totals = figures["totals"]
    assert totals["asked"] == totals["right"] > 50
    assert totals["lost"] == totals["wrong"] == totals["gone"] == 0
    assert totals["sources"].get("retries", 0) > 0, "the faults met no request"
    kinds = {fault["kind"] for fault in figures["faults"]}
    assert kinds & {"kill", "hang"}
    left = {"actors": 0, "placement_groups": 0, "processes": 0, "store_bytes_more": 0}
    assert figures["after_down"] == left
    rows = list(csv.DictReader((folder / "samples.csv").open()))
    assert len(rows) > 20
    # Three hosts and the manager, and none of those that were killed.
    assert max(int(row["actors"]) for row in rows) <= 4
    assert {row["placement_groups"] for row in rows} == {"0"}
    assert (folder / "soak.svg").exists()
    assert "answered rightly" in output
