"""Several teachers under reverse KL: the weighted mean of log-probabilities, renormalised."""

from dataclasses import replace
from functools import reduce

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.teachers import (
    Average,
    Best,
    Confidence,
    Distillation,
    Fixed,
    TopM,
    TrustTable,
    Weighted,
)
from kd_ray.core.contracts import Fusion, Labels, TeacherOutput
from kd_ray.core.criteria import DistillationCriterion
from kd_ray.core.losses import reverse_kl, token_tensors
from kd_ray.core.strategies import finish, fuse, local, merge
from kd_ray.core.targets import TokenTarget

POSITIONS = (4, 2, 3)
TABLE = TrustTable(
    split="valid",
    measure="wer",
    teachers=("a", "b", "c", "d"),
    error_percent=(30.0, 20.0, 10.0, 25.0),
)
STRATEGIES = {
    "average": Average(),
    "best": Best(),
    "best_average": Best(ties="average", trust="teacher_forced"),
    "weighted": Weighted(),
    "weighted_batch": Weighted(scope="batch", scale=0.3),
    "weighted_table": Weighted(scope="corpus", table=TABLE),
    "top_m": TopM(m=2),
    "top_m_weighted": TopM(m=3, scale=0.1),
    "confidence": Confidence(power=2.0),
    "fixed": Fixed(weights=(0.5, 0.0, 2.0, 1.0)),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())


def outputs_of(seed: int, teachers: int = 4) -> list[TeacherOutput]:
    rng = np.random.default_rng(seed)
    return [
        replace(output, confidence=-rng.uniform(0, 2, size=3).astype(np.float32))
        for output in example_outputs(seed, teachers=teachers)
    ]


def geometric(strategy, **changes) -> Fusion:
    return Fusion(strategy, fusing="geometric", **changes)


def probabilities(fused) -> np.ndarray:
    kept = np.exp(fused.tokens.log_probs.astype(np.float64))
    kept[np.arange(kept.shape[1]) >= fused.tokens.lengths[:, None]] = 0
    return kept


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@every_strategy
def test_the_target_is_the_geometric_mean_of_softened_teachers(strategy, temperature):
    outputs = outputs_of(3)
    fused = fuse(outputs, geometric(strategy, temperature=temperature), 4)
    mixed = fuse(outputs, Fusion(strategy, temperature=temperature), 4)
    np.testing.assert_array_equal(fused.weights_tokens, mixed.weights_tokens)
    assert (fused.fusing, mixed.fusing) == ("geometric", "mixture")
    for row, positions in enumerate(POSITIONS):
        weights = fused.weights_tokens[:, row].tolist()
        for u in range(positions):
            soft = [oracles.softmax(o.log_probs[row, u], temperature) for o in outputs]
            expected = oracles.geometric_mean(soft, weights)
            np.testing.assert_allclose(probabilities(fused)[row, u], expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_tree_of_hosts_gives_what_one_process_gives(seed, groups, strategy, shuffle):
    outputs, fusion = outputs_of(seed), geometric(STRATEGIES[strategy])
    whole = probabilities(fuse(outputs, fusion, 4))
    partials = [
        local([output for output, group in zip(outputs, groups, strict=True) if group == host],
              fusion, 4)
        for host in set(groups)
    ]  # fmt: skip
    while len(partials) > 1:
        shuffle.shuffle(partials)
        partials = [merge(partials[0], partials[1]), *partials[2:]]
    np.testing.assert_allclose(probabilities(finish(partials[0])), whole, atol=1e-6, rtol=0)


def test_log_probabilities_far_down_survive_the_tree():
    """Teachers who contradict each other: what is left lies in their tails."""
    log_probs = np.full((2, 1, 1, 5), -60.0, dtype=np.float32)
    log_probs[0, 0, 0, 0] = log_probs[1, 0, 0, 1] = 0.0
    log_probs[:, 0, 0, 3] = -10.0
    first = example_outputs(0, teachers=2, positions=(1,))
    outputs = [replace(o, log_probs=log_probs[n]) for n, o in enumerate(first)]
    partials = [local([output], geometric(Average()), 2) for output in outputs]
    fused = probabilities(finish(reduce(merge, partials)))[0, 0]
    assert fused[3] == pytest.approx(1.0, abs=1e-6)
    assert fused[0] == pytest.approx(np.exp(-20.0), rel=1e-4)


@pytest.mark.parametrize("fusing", ["mixture", "geometric"])
def test_of_one_teacher_both_kinds_are_the_teacher(fusing):
    [output] = outputs_of(1, teachers=1)
    fused = fuse([output], Fusion(Weighted(), temperature=1.7, fusing=fusing), 1)
    for row, positions in enumerate(POSITIONS):
        for u in range(positions):
            alone = oracles.softmax(output.log_probs[row, u], 1.7)
            np.testing.assert_allclose(probabilities(fused)[row, u], alone, atol=1e-6)


def dense(log_probs: np.ndarray) -> TokenTarget:
    return TokenTarget(np.nan_to_num(log_probs.astype(np.float64)), np.array(POSITIONS))


@every_strategy
def test_its_reverse_kl_teaches_as_the_weighted_mean_of_the_teachers_reverse_kls(strategy):
    """KL(q||g) = sum_t w_t KL(q||p_t) + log Z, and log Z does not depend on q."""
    outputs = outputs_of(7)
    fused = fuse(outputs, geometric(strategy), 4)
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = logits.clone().requires_grad_()
    whole = reverse_kl(mine, token_tensors(fused.tokens))
    whole.sum.backward()
    theirs = logits.clone().requires_grad_()
    mean = torch.zeros(3, dtype=torch.float64)
    for weight, output in zip(fused.weights_tokens, outputs, strict=True):
        each = reverse_kl(theirs, token_tensors(dense(output.log_probs)))
        mean = mean + torch.from_numpy(weight) * each.rows
    mean.sum().backward()
    np.testing.assert_allclose(mine.grad, theirs.grad, atol=1e-6)
    constants = []
    for row, positions in enumerate(POSITIONS):
        weights = fused.weights_tokens[:, row]
        for u in range(positions):
            logs = [oracles.log_softmax(o.log_probs[row, u]) for o in outputs]
            sums = [sum(w * p for w, p in zip(weights, each, strict=True))
                    for each in zip(*logs, strict=True)]  # fmt: skip
            constants.append(oracles.log_sum_exp(sums))
    gap = whole.sum.item() - mean.sum().item()
    assert gap == pytest.approx(sum(constants), abs=1e-5)
    assert gap <= 1e-6


def test_a_probability_of_zero_is_a_veto_unless_the_teacher_weighs_nothing():
    outputs = outputs_of(0, teachers=2)
    outputs[0].log_probs[0, 0, 1] = -np.inf
    fused = fuse(outputs, geometric(Average()), 2)
    assert fused.tokens.log_probs[0, 0, 1] == -np.inf
    np.testing.assert_allclose(probabilities(fused)[0, 0].sum(), 1, atol=1e-6)
    ignored = geometric(Fixed(weights=(0.0, 1.0)))
    for found in (
        fuse(outputs, ignored, 2),
        finish(merge(*(local([output], ignored, 2) for output in outputs))),
    ):
        alone = oracles.softmax(outputs[1].log_probs[0, 0])
        np.testing.assert_allclose(probabilities(found)[0, 0], alone, atol=1e-6)
    outputs[1].log_probs[0, 0] = [-np.inf, 0, -np.inf, -np.inf, -np.inf]
    with pytest.raises(ValueError, match=r"row 0, position 0: no token has a probability above"):
        local(outputs, geometric(Average()), 2)


def test_half_precision_is_rounded_before_fusing():
    outputs = outputs_of(4)
    stored = [replace(o, log_probs=o.log_probs.astype(np.float16)) for o in outputs]
    fusion = geometric(Average(), dtype="float16")
    np.testing.assert_array_equal(
        probabilities(fuse(outputs, fusion, 4)), probabilities(fuse(stored, fusion, 4))
    )


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl"])
def test_a_signal_of_the_other_kind_is_refused(divergence):
    config = Distillation(alpha=1.0, ctc_weight=0.0, divergence=divergence)
    criterion = DistillationCriterion(config, blank=0, eos=2)
    decoder = torch.zeros(3, 4, 5, dtype=torch.float64)

    def loss(fusing, teachers):
        outputs = outputs_of(2, teachers)
        signal = fuse(outputs, Fusion(Average(), fusing=fusing), teachers).signal(("a", "b", "c"))
        return criterion.losses(
            ctc_logits=None, frames=np.array([9, 5, 7]), decoder_logits=decoder,
            references=Labels.of([[1, 3, 4], [3], [4, 4]]), signal=signal,
        )["kd_att"]  # fmt: skip

    assert config.fusing == ("geometric" if divergence == "reverse_kl" else "mixture")
    other = "mixture" if divergence == "reverse_kl" else "geometric"
    assert loss(config.fusing, 4).sum.isfinite()
    with pytest.raises(ValueError, match=f"the signal holds the {other} of 4 teachers"):
        loss(other, 4)
    # Of one teacher both are the same distribution.
    assert loss(other, 1).sum.item() == pytest.approx(loss(config.fusing, 1).sum.item(), abs=1e-5)


def test_where_targets_are_single_tokens_nothing_is_geometric():
    config = Distillation(data_target="argmax", temperature=1.0)
    assert config.fusing == "mixture"
