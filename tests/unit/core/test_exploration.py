import math

import numpy as np
import oracles
import pytest
import torch
from teacher_examples import check_gradient

from kd_ray.core.contracts import Labels
from kd_ray.core.exploration import (
    advantages,
    draw_steps,
    explore,
    policy_gradient_loss,
    regression_loss,
)

IDS = [f"utterance-{i}" for i in range(3000)]
EOS, FORBIDDEN = 2, (0, 1)


def rollouts_of(rows: int, length: int = 3) -> Labels:
    return Labels.of([[3, 4, 5][:length]] * rows)


def tried(logits, steps=None, rows=None, **changes):
    rows = len(logits)
    settings = {
        "action": "student_argmax",
        "random_action_share": 0.0,
        "forbidden": FORBIDDEN,
        "eos": EOS,
        "seed": 1,
        "update": 2,
    } | changes
    steps = np.zeros(rows, dtype=np.int64) if steps is None else steps
    return explore(IDS[:rows], rollouts_of(rows), steps, logits, **settings)


def test_steps_are_even_over_positions_and_fit_short_rollouts():
    steps = draw_steps(IDS, rollouts_of(len(IDS)), seed=0, update=0)
    shares = np.bincount(steps, minlength=4) / len(IDS)
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    assert not draw_steps(IDS, rollouts_of(len(IDS), 0), seed=0, update=0).any()
    again = draw_steps(IDS[::-1], rollouts_of(len(IDS)), seed=0, update=0)
    np.testing.assert_array_equal(again[::-1], steps)
    assert (draw_steps(IDS, rollouts_of(len(IDS)), seed=0, update=1) != steps).any()


def test_the_prefix_is_the_rollout_up_to_the_step_and_the_action():
    logits = torch.zeros(3, 7)
    logits[0, 6] = logits[1, EOS] = logits[2, 0] = 9.0
    explored = tried(logits, steps=np.array([2, 1, 3]))
    # Row 2 would write a forbidden token; among the others, all equal, the lowest id wins.
    assert explored.actions.tolist() == [6, EOS, EOS]
    assert [s.tolist() for s in explored.prefix.strings()] == [[3, 4, 6], [3], [3, 4, 5]]
    assert explored.ended.tolist() == [False, True, True]


def test_random_actions_come_at_their_share_and_never_from_forbidden_tokens():
    explored = tried(torch.zeros(3000, 7), random_action_share=0.4)
    assert explored.random.mean() == pytest.approx(0.4, abs=0.03)
    drawn = explored.actions[explored.random]
    assert set(drawn.tolist()) == {2, 3, 4, 5, 6}
    np.testing.assert_allclose(np.bincount(drawn)[2:] / len(drawn), 0.2, atol=0.04)
    assert not tried(torch.zeros(50, 7), random_action_share=0.0).random.any()
    assert tried(torch.zeros(50, 7), random_action_share=1.0).random.all()


def test_sampled_actions_follow_the_students_distribution():
    row = torch.tensor([9.0, 9.0, 0.0, 1.0, -1.0, 0.5, -50.0])
    explored = tried(row.expand(3000, 7), action="student_sample")
    shares = np.bincount(explored.actions, minlength=7) / 3000
    np.testing.assert_allclose(shares[2:], oracles.softmax(row[2:].tolist()), atol=0.03)
    assert shares[:2].sum() == 0


def test_the_experts_own_action_must_come_along():
    with pytest.raises(ValueError, match="needs the expert's likeliest tokens"):
        tried(torch.zeros(2, 7), action="expert_argmax")
    explored = tried(torch.zeros(2, 7), action="expert_argmax", expert_argmax=np.array([5, 6]))
    assert explored.actions.tolist() == [5, 6]
    with pytest.raises(ValueError, match="every one of 2 tokens"):
        tried(torch.zeros(2, 2))


def test_advantage_and_which_actions_count():
    expert, prefix = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.2, 0.6])
    worth, counts = advantages(expert, prefix)
    np.testing.assert_allclose(worth, [0.4, 0.0, -0.3])
    assert counts.tolist() == [True, False, False]
    _, counts = advantages(expert, prefix, np.array([0.6, 0.1, 0.1]))
    assert counts.tolist() == [False, True, True]


@pytest.mark.parametrize("wrong", [-40.0, 27.0, float("nan")])
def test_rewards_in_percent_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expert reward of row 1 .* between 0 and 1"):
        advantages(np.array([0.5, wrong]), np.zeros(2))


LOGITS = [[0.3, -1.2, 2.0, 0.4, 0.0], [1.0, 0.2, -0.7, 0.9, 3.0], [0.1, 0.2, 0.3, 0.4, 0.5]]
ACTIONS, WORTH = np.array([2, 0, 3]), np.array([0.4, 0.7, -0.2])
COUNTS = np.array([True, True, False])


def test_regression_loss_matches_the_slow_reference():
    loss = regression_loss(torch.tensor(LOGITS, dtype=torch.float64), ACTIONS, WORTH, COUNTS)
    expected = []
    for row, action, worth in zip(LOGITS, ACTIONS, WORTH, strict=True):
        middle = (max(row) + min(row)) / 2
        g = 1 / (1 + math.exp(-4 * (row[action] - middle) / (max(row) - min(row))))
        expected.append((g - worth) ** 2)
    np.testing.assert_allclose(loss.rows, [expected[0], expected[1], 0], atol=1e-12)
    # Row 0 by hand: z is the highest logit, so g = sigmoid(2) = 0.8807971, minus 0.4, squared.
    assert expected[0] == pytest.approx(0.4807971**2, abs=1e-6)
    assert loss.count == 3
    # The reference's middle, |max + min| / 2, would be another one where logits are negative.
    shifted = torch.tensor(LOGITS, dtype=torch.float64) - 10
    moved = regression_loss(shifted, ACTIONS, WORTH, COUNTS)
    np.testing.assert_allclose(moved.rows, loss.rows, atol=1e-12)


def test_regression_pushes_the_action_alone_and_survives_equal_logits():
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    regression_loss(logits, ACTIONS, WORTH, COUNTS).sum.backward()
    assert (logits.grad != 0).sum() == 2
    assert logits.grad[0, 2] > 0  # g is above the advantage: the logit must fall
    flat = torch.ones(1, 5, dtype=torch.float64, requires_grad=True)
    loss = regression_loss(flat, np.array([1]), np.array([0.1]), np.array([True]))
    assert loss.sum.item() == pytest.approx(0.16)
    loss.sum.backward()
    assert torch.isfinite(flat.grad).all()


def test_policy_gradient_loss_matches_the_slow_reference():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    loss = policy_gradient_loss(logits, ACTIONS, WORTH, COUNTS)
    expected = [
        -worth * oracles.log_softmax(row)[action] if counts else 0.0
        for row, action, worth, counts in zip(LOGITS, ACTIONS, WORTH, COUNTS, strict=True)
    ]
    np.testing.assert_allclose(loss.rows, expected, atol=1e-12)
    check_gradient(lambda moved: policy_gradient_loss(moved, ACTIONS, WORTH, COUNTS).sum, logits)


@pytest.mark.parametrize("loss", [regression_loss, policy_gradient_loss])
def test_rows_that_do_not_count_may_hold_anything(loss):
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    clean = loss(logits, ACTIONS, WORTH, COUNTS).sum.item()
    logits[2] = torch.nan
    logits.requires_grad_()
    value = loss(logits, ACTIONS, WORTH, COUNTS).sum
    value.backward()
    assert value.item() == clean
    assert (logits.grad[2] == 0).all()
