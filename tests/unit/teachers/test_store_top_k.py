import numpy as np
import pytest
from store_doubles import VOCABULARY, filled_store, info, output, rows, utterances

from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.store.rows import _truncate

D = [f"{n:016x}" for n in range(3)]
K = 3


def oracle(log_probs, k):
    """Loops over one position in float64: the tail is spread evenly. Also KL(p || q)."""
    p = [float(x) for x in np.exp(log_probs.astype(np.float64))]
    kept = sorted(range(len(p)), key=lambda v: (-p[v], v))[:k]
    rest = 0.0
    for v in range(len(p)):
        if v not in kept:
            rest += p[v]
    q = [p[v] if v in kept else rest / (len(p) - k) for v in range(len(p))]
    gap = 0.0
    for v in range(len(p)):
        if p[v] > 0:
            gap += p[v] * (np.log(p[v]) - np.log(q[v]))
    return np.array(q), gap


def test_the_top_k_is_exact_and_the_tail_spread_evenly(tmp_path):
    store = filled_store(tmp_path / "store", top_k=K)
    ids = ["u8", "u3", "u1"]
    for number, mine in enumerate(store.read("train", ids, D)):
        theirs = output(number, ids)
        assert mine.log_probs.shape == (3, 5, VOCABULARY)
        for row, length in enumerate(mine.positions):
            for position in range(length):
                found = mine.log_probs[row, position]
                wanted, _ = oracle(theirs.log_probs[row, position], K)
                np.testing.assert_allclose(np.exp(found.astype(np.float64)), wanted, atol=1e-7)
                top = np.argsort(-theirs.log_probs[row, position])[:K]
                np.testing.assert_array_equal(found[top], theirs.log_probs[row, position][top])


def test_the_measured_gap_is_the_mean_kl_over_positions(tmp_path):
    store = filled_store(tmp_path / "store", top_k=K)
    gap = store.update_gap()
    ids = [f"u{n}" for n in range(10)]
    gaps = []
    for number in range(3):
        theirs = output(number, ids)
        for row, length in enumerate(theirs.positions):
            gaps += [oracle(theirs.log_probs[row, u], K)[1] for u in range(length)]
    assert gap.positions == len(gaps)
    assert gap.mean_kl_nats == pytest.approx(np.mean(gaps), rel=1e-9)
    assert type(store).open(tmp_path / "store").index.top_k_gap == gap


def test_keeping_all_but_one_token_loses_nothing(tmp_path):
    store = filled_store(tmp_path / "store", top_k=VOCABULARY - 1)
    assert store.update_gap().mean_kl_nats == pytest.approx(0.0, abs=1e-12)
    (mine,) = store.read("train", ["u3"], D[:1])
    np.testing.assert_allclose(mine.log_probs, output(0, ["u3"]).log_probs, atol=1e-5)


def test_tokens_of_no_mass_stay_without_mass(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0)], top_k=2)
    (shard,) = store.plan("train", utterances(1), 4, column="phones")
    made = rows(0, list(shard.ids))
    made[0].log_probs[:] = -np.inf
    made[0].log_probs[:, 4:6] = np.log(0.5)
    store.write_shard("train", D[0], 0, made)
    (mine,) = store.read("train", ["u0"], D[:1])
    assert np.exp(mine.log_probs).sum() == pytest.approx(len(made[0].log_probs))
    np.testing.assert_allclose(np.exp(mine.log_probs[0, :, 4:6]), 0.5, atol=1e-6)
    assert store.update_gap().mean_kl_nats == 0.0


def test_a_dense_store_has_no_gap(tmp_path):
    store = filled_store(tmp_path / "store")
    assert store.update_gap() is None


def test_of_equal_tokens_the_lowest_ids_stay():
    rng = np.random.default_rng(5)
    # Few different numbers, as of logits in half precision.
    logits = np.round(rng.normal(size=(200, 50)))
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    ids, kept, _, _ = _truncate(log_probs, 8)
    for position, mine in enumerate(ids):
        wanted = sorted(range(50), key=lambda v: (-log_probs[position, v], v))[:8]
        assert mine.tolist() == wanted
        np.testing.assert_array_equal(kept[position], log_probs[position, wanted])
