import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import check_gradient

from kd_ray.core.contracts import Labels
from kd_ray.core.ctc_plan import frames_needed, plan_ctc, reference_strings
from kd_ray.core.losses import ctc_on_strings
from kd_ray.core.targets import LabelStrings, pad_labels

# Shapes: B utterances, T frames, V vocabulary.
FRAMES = np.array([6, 4, 5])


def logits_of(seed=0, batch=3, frames=6, vocabulary=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, vocabulary, generator=generator, dtype=torch.float64).to(
        dtype
    )


def strings_of(rows, padding=0):
    """Rows of (string, weight) lists, one for each utterance."""
    flat = [(i, string, weight) for i, row in enumerate(rows) for string, weight in row]
    labels, lengths = pad_labels([string for _, string, _ in flat])
    labels[np.arange(labels.shape[1]) >= lengths[:, None]] = padding
    return LabelStrings(
        labels,
        lengths,
        np.array([i for i, _, _ in flat], dtype=np.int64),
        np.array([weight for _, _, weight in flat], dtype=np.float64),
        np.zeros(len(rows)),
    )


MIXED = [[([1, 2], 0.5), ([1, 1], 0.3), ([], 0.2)], [([3], 1.0)], [([2, 2, 2], 0.6), ([4], 0.4)]]


def oracle(logits, frames, rows, blank, reduction):
    total = 0.0
    for i, row in enumerate(rows):
        for string, weight in row:
            nll = oracles.ctc_nll(logits[i].tolist(), int(frames[i]), string, blank)
            total += weight * nll / (max(1, len(string)) if reduction == "per_utterance" else 1)
    return total


@pytest.mark.parametrize("reduction", ["per_utterance", "per_label"])
def test_weighted_strings_match_the_slow_reference(reduction):
    logits = logits_of()
    found = ctc_on_strings(
        logits, FRAMES, strings_of(MIXED), blank=0, reduction=reduction, empty="keep"
    )
    expected = oracle(logits, FRAMES, MIXED, 0, reduction)
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    labels = 0.5 * 2 + 0.3 * 2 + 0.2 * 1 + 1.0 + 0.6 * 3 + 0.4
    assert found.count == pytest.approx(3 if reduction == "per_utterance" else labels)
    assert found.rows.sum().item() == pytest.approx(expected, abs=1e-9)


def test_the_blank_may_be_any_token():
    logits = logits_of()
    rows = [[([1, 2], 1.0)], [([3, 3], 1.0)], [([0, 1, 0], 1.0)]]
    found = ctc_on_strings(logits, FRAMES, strings_of(rows), blank=4)
    expected = oracle(logits, FRAMES, rows, 4, "per_utterance")
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)


def test_gradient_of_weighted_strings():
    logits = logits_of(batch=2, frames=4, vocabulary=3).requires_grad_()
    strings = strings_of([[([1, 2], 0.5), ([1, 1], 0.3), ([], 0.2)], [([2], 1.0)]])
    check_gradient(
        lambda x: ctc_on_strings(x, np.array([4, 3]), strings, blank=0, empty="keep").sum, logits
    )


def test_a_hand_worked_string_of_one_label():
    # Two frames, uniform over {blank, a}: of the four paths, three read "a": aa, a-, -a.
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    found = ctc_on_strings(logits, np.array([2]), strings_of([[([1], 1.0)]]), blank=0)
    assert found.sum.item() == pytest.approx(-math.log(3 / 4), abs=1e-12)


def test_one_call_serves_all_strings(monkeypatch):
    calls = []
    original = torch.nn.functional.ctc_loss
    monkeypatch.setattr(
        torch.nn.functional,
        "ctc_loss",
        lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs),
    )
    ctc_on_strings(logits_of(), FRAMES, strings_of(MIXED), blank=0)
    assert len(calls) == 1


def test_merged_strings_cost_what_their_teachers_would():
    # (1/N) sum_n NLL(y_n) over teachers that agree = NLL with the summed weight.
    logits = logits_of()
    apart = [[([1, 2], 0.25), ([1, 2], 0.25), ([3], 0.5)], [([1], 1.0)], [([1], 1.0)]]
    merged = [[([1, 2], 0.5), ([3], 0.5)], [([1], 1.0)], [([1], 1.0)]]
    a = ctc_on_strings(logits, FRAMES, strings_of(apart), blank=0)
    b = ctc_on_strings(logits, FRAMES, strings_of(merged), blank=0)
    assert a.sum.item() == pytest.approx(b.sum.item(), abs=1e-12)
    assert a.count == b.count == 3


def test_empty_strings_are_skipped_and_the_others_take_their_weight():
    logits = logits_of()
    skipped = ctc_on_strings(logits, FRAMES, strings_of(MIXED), blank=0)
    rest = [[([1, 2], 0.625), ([1, 1], 0.375)], *MIXED[1:]]
    expected = oracle(logits, FRAMES, rest, 0, "per_utterance")
    assert skipped.sum.item() == pytest.approx(expected, abs=1e-9)
    assert skipped.plan.skipped_empty == 1
    only_empty = [[([], 1.0)], *MIXED[1:]]
    lonely = ctc_on_strings(logits, FRAMES, strings_of(only_empty), blank=0)
    assert lonely.count == 2
    assert lonely.rows[0] == 0


def test_a_kept_empty_string_is_minus_the_sum_of_blank_log_probabilities():
    logits = logits_of()
    only_empty = strings_of([[([], 1.0)], [], []])
    found = ctc_on_strings(logits, FRAMES, only_empty, blank=0, empty="keep")
    expected = -sum(oracles.log_softmax(logits[0, t].tolist())[0] for t in range(6))
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert found.count == 1


# Row 2 has five frames: [2, 2, 2] needs five (blanks between), [1, 1, 1, 1] needs seven.
LONG = [[([1], 1.0)], [([1, 2, 3, 4, 1], 1.0)], [([1, 1, 1, 1], 0.75), ([2, 2, 2], 0.25)]]


def test_strings_too_long_are_dropped_and_counted():
    logits = logits_of().requires_grad_()
    found = ctc_on_strings(logits, FRAMES, strings_of(LONG), blank=0)
    kept = [[([1], 1.0)], [], [([2, 2, 2], 1.0)]]
    expected = oracle(logits.detach(), FRAMES, kept, 0, "per_utterance")
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert (found.count, found.plan.dropped_too_long) == (2, 2)
    found.sum.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_strings_too_long_can_contribute_zero_instead():
    logits = logits_of()
    found = ctc_on_strings(logits, FRAMES, strings_of(LONG), blank=0, too_long="zero")
    kept = [[([1], 1.0)], [], [([2, 2, 2], 0.25)]]
    expected = oracle(logits, FRAMES, kept, 0, "per_utterance")
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert (found.count, found.plan.dropped_too_long) == (3, 2)
    labels = ctc_on_strings(
        logits, FRAMES, strings_of(LONG), blank=0, too_long="zero", reduction="per_label"
    )
    assert labels.count == pytest.approx(1 + 5 + 0.75 * 4 + 0.25 * 3)


def test_an_utterance_without_frames_carries_nothing():
    rows = [[([1], 1.0)], [([], 1.0)], [([2], 1.0)]]
    frames = np.array([0, 0, 5])
    logits = logits_of()
    found = ctc_on_strings(logits, frames, strings_of(rows), blank=0, empty="keep")
    assert found.count == 1
    assert found.rows[:2].tolist() == [0, 0]
    assert found.sum.isfinite()


@settings(max_examples=200, deadline=None)
@given(string=st.lists(st.integers(1, 2), max_size=5), frames=st.integers(1, 9))
def test_frames_needed_is_what_the_forward_algorithm_needs(string, frames):
    labels = np.array([string + [1] * (6 - len(string))])
    needed = int(frames_needed(labels, np.array([len(string)]))[0])
    possible = math.isfinite(oracles.ctc_nll([[0.0, 0.0, 0.0]] * frames, frames, string, 0))
    assert possible == (frames >= needed)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    reduction=st.sampled_from(["per_utterance", "per_label"]),
    empty=st.sampled_from(["skip", "keep"]),
    too_long=st.sampled_from(["drop", "zero"]),
)
def test_planned_counts_are_the_counts_of_the_loss_and_weights_stay_whole(
    seed, reduction, empty, too_long
):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(3):
        weights = rng.dirichlet(np.ones(3))[: rng.integers(0, 4)]
        weights = weights / max(weights.sum(), 1e-9)
        rows.append([(rng.integers(1, 5, size=rng.integers(0, 6)).tolist(), w) for w in weights])
    frames = rng.integers(0, 7, size=3)
    options = {"reduction": reduction, "empty": empty, "too_long": too_long}
    plan = plan_ctc(strings_of(rows), frames, **options)
    loss = ctc_on_strings(logits_of(seed), frames, strings_of(rows), blank=0, **options)
    assert loss.count == plan.count
    assert loss.sum.isfinite()
    if reduction == "per_utterance" and too_long == "drop":
        per_row = np.bincount(plan.utterance, plan.factors * np.maximum(plan.lengths, 1))
        carried = per_row[per_row > 0]
        assert carried == pytest.approx(np.ones(len(carried)))
        assert plan.count == len(carried)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_masked_frames_and_label_padding_leak_nowhere(value):
    clean = logits_of().requires_grad_()
    a = ctc_on_strings(clean, FRAMES, strings_of(MIXED), blank=0)
    a.sum.backward()
    dirty = torch.cat([logits_of(), torch.full((3, 2, 5), value)], dim=1)
    for row, frames in enumerate(FRAMES):
        dirty[row, frames:] = value
    dirty.requires_grad_()
    b = ctc_on_strings(dirty, torch.tensor(FRAMES), strings_of(MIXED, padding=10**6), blank=0)
    b.sum.backward()
    assert a.sum.item() == pytest.approx(b.sum.item(), abs=1e-12)
    np.testing.assert_allclose(clean.grad, dirty.grad[:, :6], atol=1e-12, rtol=0)
    assert not dirty.grad[:, 6:].any()


@pytest.mark.parametrize(
    "rows", [[[], []], [[([], 1.0)], [([1] * 9, 1.0)]]], ids=["none", "all_out"]
)
def test_no_string_at_all_gives_zero_and_a_usable_gradient(rows):
    logits = torch.full((2, 6, 5), torch.nan)
    logits[:, :2] = 0.5
    logits.requires_grad_()
    loss = ctc_on_strings(logits, np.array([2, 2]), strings_of(rows), blank=0)
    assert (loss.sum.item(), loss.count, loss.mean.item()) == (0, 0, 0)
    loss.sum.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_logits_are_computed_in_float32():
    logits = logits_of(dtype=torch.bfloat16)
    found = ctc_on_strings(logits, FRAMES, strings_of(MIXED), blank=0)
    assert found.sum.dtype == torch.float32
    assert found.sum.item() == pytest.approx(
        ctc_on_strings(logits.double(), FRAMES, strings_of(MIXED), blank=0).sum.item(), abs=1e-4
    )


def test_references_are_strings_of_weight_one():
    references = Labels(np.array([[1, 2], [0, 0], [3, 0]]), np.array([2, -1, 1]))
    found = ctc_on_strings(logits_of(), FRAMES, reference_strings(references), blank=0)
    expected = oracle(logits_of(), FRAMES, [[([1, 2], 1.0)], [], [([3], 1.0)]], 0, "per_utterance")
    assert found.sum.item() == pytest.approx(expected, abs=1e-9)
    assert found.count == 2


def test_strings_that_ctc_would_misread_are_refused():
    logits = logits_of()
    with pytest.raises(ValueError, match=r"row 1 holds the id 0: .* not the blank \(0\)"):
        ctc_on_strings(logits, FRAMES, strings_of([[([1], 1.0)], [([2, 0], 1.0)], []]), blank=0)
    with pytest.raises(ValueError, match=r"row 2 holds the id 5: labels must be in 0\.\.4"):
        ctc_on_strings(logits, FRAMES, strings_of([[], [], [([5], 1.0)]]), blank=0)
    with pytest.raises(ValueError, match="frames: 3 rows of up to 7"):
        ctc_on_strings(logits, np.array([7, 1, 1]), strings_of(MIXED), blank=0)
    with pytest.raises(ValueError, match="frames: 2 rows"):
        ctc_on_strings(logits, np.array([6, 6]), strings_of(MIXED), blank=0)
