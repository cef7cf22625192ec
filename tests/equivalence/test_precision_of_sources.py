"""Teachers in bfloat16: the same numbers from every source, told apart from those in float32."""

import numpy as np
import pytest
import tiny
from in_process_pool import InProcessPool
from source_losses import request_for, rows_of, update_loss
from tiny_runs import run, run_until

from kd_ray.config.sources import Computation
from kd_ray.evaluation.run_folder import RunFolderError
from kd_ray.teachers.inference import ShardScorer
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.residents import paged_from_folders
from kd_ray.teachers.store import StoreError
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.temporary import temporary_store

BFLOAT16 = Computation(precision="bfloat16")
PROBABILITY = 3e-3
"""Mean error of a probability that bfloat16 may cost, as in tests/unit/models."""
LOSS = 5e-3
"""Of an update's loss: other batches round elsewhere."""


@pytest.fixture(scope="module")
def folders(tiny_root):
    return [tiny_root / "teachers" / f"t{number}" for number in range(3)]


def loaded(folders, indices):
    """Teachers as a host of a pool loads them."""
    residents = paged_from_folders(
        folders, indices, device="cpu", max_bytes=None, computation=BFLOAT16
    )
    teachers = []
    for index in indices:
        with residents.use(index) as teacher:
            teachers.append(teacher)
    return teachers


def test_three_sources_agree_in_bfloat16(tiny_root, folders):
    # Without label strings and trust by them: what is close may be written otherwise in bfloat16.
    config = tiny.distill_config(
        "half",
        "teachers.txt",
        teachers__strategy={"type": "average"},
        distillation__ctc_weight=0.0,
    )
    rows = rows_of(tiny_root)
    request = request_for(config, tiny_root, rows[3:11])
    where = {"root": tiny_root, "tokens": tiny_root / config.data.tokens, "column": "phones"}
    with temporary_store(folders, rows, computation=BFLOAT16, **where) as store:
        sources = {
            "local": LocalSource(load_teachers(folders, computation=BFLOAT16)),
            "pool": InProcessPool(loaded(folders, [0, 1, 2]), 2, batching="per_request"),
            "store": store,
            "float32": LocalSource(load_teachers(folders)),
        }
        signals = {name: source.ask(request).result(60.0) for name, source in sources.items()}
        for name, source in sources.items():
            (precision,) = {info.precision for info in source.describe().teachers}
            assert precision == ("float32" if name == "float32" else "bfloat16")
            if name != "store":
                source.close()
    losses = {
        name: update_loss(config, tiny_root, request, signal) for name, signal in signals.items()
    }
    local = signals["local"].tokens
    valid = np.arange(local.log_probs.shape[1]) < local.lengths[:, None]
    apart = {
        name: np.abs(np.exp(signal.tokens.log_probs) - np.exp(local.log_probs))[valid].mean()
        for name, signal in signals.items()
    }
    assert apart["pool"] < 1e-7
    assert losses["pool"] == pytest.approx(losses["local"], abs=1e-5)
    assert apart["store"] < PROBABILITY
    assert losses["store"] == pytest.approx(losses["local"], abs=LOSS)
    assert 1e-6 < apart["float32"] < PROBABILITY
    assert losses["float32"] == pytest.approx(losses["local"], abs=LOSS)


def test_a_store_is_not_filled_in_another_precision(tiny_root, folders, monkeypatch):
    def in_float32(job, load):
        return ShardScorer(job, load_teachers)

    monkeypatch.setattr("kd_ray.teachers.temporary.ShardScorer", in_float32)
    where = {"root": tiny_root, "tokens": tiny_root / "data" / "tokens.json", "column": "phones"}
    rows = rows_of(tiny_root)[:2]
    with (
        pytest.raises(StoreError, match="t0 computes in float32, and"),
        temporary_store(folders[:1], rows, computation=BFLOAT16, **where),
    ):
        pass


def test_a_run_goes_on_in_the_precision_that_it_began_with(tiny_root, folders):
    config = tiny.distill_config("half-way", "teachers.txt", training__max_updates=6)
    first = LocalSource(load_teachers(folders))
    run_until(4, config, tiny_root, first)
    first.close()
    half = LocalSource(load_teachers(folders, computation=BFLOAT16))
    with pytest.raises(RunFolderError, match="-bfloat16"):
        run(config, tiny_root, source=half)
    half.close()
