"""`kd-ray bench pool` at its smallest sizes: parts run, and say what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_ray.bench.pool.measure import measure_pool
from kd_ray.config.bench import BenchPoolConfig

TINY = {
    "encoder": {"cnn_channels": [4, 4], "rnn_layers": 1, "rnn_size": 12, "dnn_size": 12},
    "decoder": {"embedding_size": 8, "hidden_size": 12, "attention_size": 12},
}
SMALLEST = {
    "command": "bench",
    "what": "pool",
    "name": "bench/tiny",
    "model": TINY,
    "batch": {"utterances": 2, "duration_s": 0.3, "positions": 5, "vocabulary_size": 12},
    "saturation": {"requests": 4, "rounds": 1, "in_flight": 2},
    "round_trip": {"requests": 6, "warmup": 2},
    "tail": {"requests": 20},
    "registered": {
        "teachers": 12,
        "model": TINY,
        "memory_mib": 0.1,
        "utterances": 2,
        "duration_s": 0.3,
        "requests": 3,
        "window": 2,
        "windows": 2,
    },
    "fleet": {"hosts": 2, "pass_s": 0.05},
    "bytes": {"teachers": [1, 4], "hosts": [1, 2]},
    "scaling": {"hosts": [1, 2], "seconds": 1.0, "in_flight": 2, "idle_requests": 3},
    "failover": {"in_flight": 4, "before_s": 0.5, "after_s": 0.5, "recover_s": 300},
}


@pytest.mark.slow
@pytest.mark.ray
def test_parts_with_fakes_measure_the_pool_they_name(local_ray):
    config = BenchPoolConfig.model_validate(
        {**SMALLEST, "cpus_per_host": 0.25, "parts": ["round_trip", "bytes", "scaling"]}
    )
    figures = measure_pool(config)["parts"]
    assert {name: part.get("failed") for name, part in figures.items()} == dict.fromkeys(
        ["round_trip", "bytes", "scaling"]
    )
    assert figures["round_trip"]["pool_ms"] > figures["round_trip"]["bare_ms"] > 0
    rows = figures["bytes"]["rows"]
    assert [(row["teachers"], row["hosts"]) for row in rows] == [(1, 1), (4, 1), (4, 2)]
    # Float32 over 12 tokens, and a share of the lengths: whatever the teachers and hosts.
    (size,) = {row["target_bytes_per_position"] for row in rows}
    assert size == 12 * 4 + 8 / 5
    assert figures["bytes"]["goals"][0]["met"]
    assert rows[2]["host_bytes_each"] >= 2 * 5 * 12 * 4
    assert set(figures["scaling"]["copies"]) == set(figures["scaling"]["split"]) == {"1", "2"}
    # A pass sleeps, so that no host can be faster than that; when an answer has come is measured
    # here, and that of the first few may be late.
    assert 0 < figures["scaling"]["copies"]["1"]["requests_per_s"] <= 1.2 / 0.05


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
def test_all_parts_run_by_the_command_on_a_simulated_cluster(tmp_path):
    (tmp_path / "pool.yaml").write_text(json.dumps(SMALLEST))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "kd_ray.cli", "bench", "pool", "pool.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "runs/bench/tiny/pool.json").read_text())["parts"]
    failed = {name: part["failed"] for name, part in figures.items() if "failed" in part}
    assert not failed, f"{failed}\n{done.stdout}{done.stderr}"
    assert figures["scaling"]["nodes"] == 2
    registered = figures["registered"]
    assert registered["resident_teachers"] < 12
    assert registered["offline"]["loads_per_teacher"] >= 1
    assert figures["tail"]["p50_s"] <= figures["tail"]["p99_s"]
    assert figures["saturation"]["utterances_per_pass"] == 2
    for case in ("with_copies", "without_copies"):
        found = figures["failover"][case]
        assert [found[key] for key in ("lost", "wrong", "twice", "shortened")] == [0, 0, 0, 0]
        assert found["requests"] > 4
        assert found["client_uses_it_s"] > found["client_noticed_s"]
