"""What `kd-ray bench` measures, at the smallest sizes: figures are there, comparisons are fair."""

import json
import sys

import pytest
import tiny
import torch
from yaml_files import write_config

from kd_ray.bench import rollouts
from kd_ray.bench.memory import peak_bytes
from kd_ray.bench.rollouts import (
    RolloutsDiffer,
    check_equal,
    greedy_without_cache,
    measure_rollouts,
)
from kd_ray.bench.sparse import measure_sparse
from kd_ray.cli import main
from kd_ray.config.bench import BenchRolloutsConfig, BenchSparseConfig
from kd_ray.config.load import ConfigError, check

STUDENT = {
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}
ROLLOUTS = {
    "command": "bench",
    "what": "rollouts",
    "name": "bench/tiny",
    "model": STUDENT,
    "vocabulary_size": 11,
    "batch_size": 3,
    "frames": 20,
    "length": 7,
    "repeats": 2,
}
SPARSE = {
    "command": "bench",
    "what": "sparse",
    "vocabulary_sizes": [20, 30],
    "top_k": 3,
    "batch_size": 2,
    "length": 4,
    "repeats": 2,
}


def rollouts_config(**changes) -> BenchRolloutsConfig:
    config = check({**ROLLOUTS, **changes}, "test")
    assert isinstance(config, BenchRolloutsConfig)
    return config


def test_rollouts_have_the_asked_length_with_and_without_the_cache():
    config = rollouts_config()
    torch.manual_seed(1)
    model = rollouts._build(config)
    lengths = torch.full((3,), 20)
    encoded = model.encode(model.normalize(torch.randn(3, 20, 16), lengths), lengths)
    written = greedy_without_cache(model, encoded, 7)
    assert [len(row) for row in written] == [7, 7, 7]
    assert not {0, 1, 2} & {token for row in written for token in row}
    assert rollouts.attention_greedy(model, encoded, torch.full((3,), 7)) == written
    with pytest.raises(RolloutsDiffer, match="row 1, token 2: 5 with the cache, 6 without"):
        check_equal([[3], [3, 4, 5]], [[3], [3, 4, 6]])


def test_the_figures_of_rollouts_are_complete():
    figures = measure_rollouts(rollouts_config())
    assert figures["encoder_states"] == 5
    assert figures["ways"]["cache"]["to_cache"] == 1.0
    assert set(figures["ways"]) == {"cache", "whole_prefix"}
    assert all(len(times) == 2 for times in figures["all_s"].values())


def test_the_slowest_way_can_be_measured_less_often():
    figures = measure_rollouts(rollouts_config(repeats=3, whole_prefix_repeats=1))
    assert [len(figures["all_s"][way]) for way in ("cache", "whole_prefix")] == [3, 1]
    assert figures["ways"]["whole_prefix"]["cpu_to_cache"] > 0


def test_transformers_takes_part_where_it_is_there():
    pytest.importorskip("transformers")
    figures = measure_rollouts(rollouts_config(transformers=True))
    assert figures["ways"]["transformers"]["cpu_to_cache"] > 0


def test_without_transformers_the_way_to_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RAY_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = write_config(tmp_path / "bench.yaml", rollouts_config(transformers=True))
    assert main(["bench", "rollouts", str(path)]) == 2
    assert "pip install 'kd-ray[hf]'" in capsys.readouterr().err
    berard = {**STUDENT, "encoder": {"type": "berard"}}
    with pytest.raises(ConfigError, match=r"transformers: true needs model\.encoder"):
        rollouts_config(model=berard, transformers=True)


def test_peak_memory_is_what_is_held_at_a_time():
    def run() -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second + 1
        assert third[0] == 2

    assert 8000 <= peak_bytes(run) < 9000


def test_sparse_losses_hold_one_buffer_of_the_logits_size():
    config = check({**SPARSE, "vocabulary_sizes": [4000]}, "test")
    assert isinstance(config, BenchSparseConfig)
    losses = measure_sparse(config)["vocabularies"]["4000"]
    logits = 4 * 2 * 4 * 4000
    assert losses["cross_entropy"]["to_cross_entropy"] == 1.0
    assert losses["cross_entropy"]["peak_bytes"] > 2 * logits
    for name in ("top_k", "top_k_and_tail"):
        assert losses[name]["peak_bytes"] < 1.2 * logits
        assert losses[name]["peak_with_logits_to_cross_entropy"] < 1.2


def test_the_command_writes_its_figures_and_refuses_other_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RAY_ROOT", str(tmp_path))
    path = write_config(tmp_path / "bench.yaml", SPARSE)
    assert main(["bench", "sparse", str(path), "name=bench/few"]) == 0
    written = json.loads((tmp_path / "runs/bench/few/sparse.json").read_text())
    assert set(written["vocabularies"]) == {"20", "30"}
    assert "torch" in json.dumps(written["environment"])
    assert main(["bench", "rollouts", str(path)]) == 2
    assert "for `kd-ray bench sparse`, not for `kd-ray bench rollouts`" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="top_k is 3, more than the 2 tokens"):
        check({**SPARSE, "vocabulary_sizes": [2]}, "test")
    with pytest.raises(ConfigError, match="what: got 'spars', allowed"):
        check({**SPARSE, "what": "spars"}, "test")
