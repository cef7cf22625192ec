"""AggreVaTe (experimental): the student tries an action, the expert shows what it was worth.

For each sentence: a rollout, a step t of it drawn evenly, an action there (the student's choice, or
now and then a random token); the expert completes the prefix up to and with the action. The
completion's reward, less that of what the student had, is the cost-to-go that the losses learn.
Hubert, Sokolov & Riezler 2023 (arXiv 2307.08426); Ross & Bagnell 2014.

Rewards come from the caller: whole sentences against the reference by BLEU, chrF or 1 - TER, in
[0, 1].

Shapes: R sentences, L tokens, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.core.imitation import BoolArray, Items, uniform_draws
from kd_ray.core.losses import LossSum
from kd_ray.core.targets import IntArray

Action = Literal["student_argmax", "student_sample", "expert_argmax"]


@dataclass(frozen=True, eq=False)
class Explored:
    """What was tried, and what the expert has to complete.

    `steps`, `actions` (R,): the token tried at that position of the rollout. `random` (R,): the
    action was drawn from the vocabulary. `prefix` (R rows): rollout up to the step, then the
    action. `ended` (R,): the action was the end symbol, so that the prefix (without it) is a whole
    sentence and the expert has nothing to complete.
    """

    steps: IntArray
    actions: IntArray
    random: BoolArray
    prefix: Labels
    ended: BoolArray


@dataclass(frozen=True, eq=False)
class TriedItems(Items):
    """One item for each utterance: the rollout up to the step, and what was tried there.

    `actions`, `random`, `ended` (R,) as in `Explored`. `tried` (R rows): prefix and action, which
    the expert completes where `asked`; `own`: the student's completions, where they are the
    baseline. The others are known once the expert's completions are: `rewards` (R,) of these,
    `advantage` and `counts` (R,) of `advantages`.
    """

    actions: IntArray
    random: BoolArray
    ended: BoolArray
    tried: Labels
    own: Labels | None = None
    rewards: NDArray[np.float64] | None = None
    advantage: NDArray[np.float64] | None = None
    counts: BoolArray | None = None


@dataclass(frozen=True)
class ExplorationSums:
    """Counts and sums over tried actions; `+` adds them up over batches and workers."""

    sentences: float = 0.0
    random: float = 0.0
    """Actions drawn from the vocabulary."""
    ended: float = 0.0
    """Actions that are the end symbol: nothing was left to complete."""
    counted: float = 0.0
    """Actions that the loss counts."""
    rewards: float = 0.0
    """Of the expert's completions."""
    advantages: float = 0.0
    """Of the counted actions."""

    def __add__(self, other: "ExplorationSums") -> "ExplorationSums":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ExplorationSums(*(mine + theirs for mine, theirs in pairs))

    @classmethod
    def over(cls, items: TriedItems) -> "ExplorationSums":
        """Of judged actions."""
        assert items.rewards is not None
        assert items.advantage is not None
        assert items.counts is not None
        return cls(
            float(len(items)),
            float(items.random.sum()),
            float(items.ended.sum()),
            float(items.counts.sum()),
            float(items.rewards.sum()),
            float(items.advantage[items.counts].sum()),
        )

    def figures(self) -> dict[str, float]:
        """Means, for a line of metrics; what was never counted is left out."""
        ratios = {
            "completion_reward": (self.rewards, self.sentences),
            "counted_action_share": (self.counted, self.sentences),
            "random_action_share": (self.random, self.sentences),
            "end_action_share": (self.ended, self.sentences),
            "counted_advantage": (self.advantages, self.counted),
        }
        return {name: over / under for name, (over, under) in ratios.items() if under > 0}


def draw_steps(
    utterance_ids: Sequence[str], rollouts: Labels, *, seed: int, update: int
) -> IntArray:
    """(R,) a position of each rollout, end symbol included, all equally likely."""
    positions = np.asarray(rollouts.lengths) + 1
    draws = uniform_draws("aggrevate-step", utterance_ids, seed, update)
    # A product may round up to the number of positions.
    return np.minimum((draws * positions).astype(np.int64), positions - 1)


def explore(
    utterance_ids: Sequence[str],
    rollouts: Labels,
    steps: IntArray,
    logits_RV: Tensor,
    *,
    action: Action,
    random_action_share: float,
    expert_argmax: IntArray | None = None,
    forbidden: Collection[int],
    eos: int,
    seed: int,
    update: int,
) -> Explored:
    """Draw the actions; a function of (seed, update, id) and the logits alone.

    Args:
        utterance_ids: of the sentences.
        rollouts: the student's own strings, without end symbol.
        steps: of `draw_steps`.
        logits_RV: the student's, at these steps.
        action: what is tried where nothing is drawn at random.
        random_action_share: probability of a token drawn evenly from the allowed vocabulary.
        expert_argmax: (R,) the expert's likeliest tokens at the steps, for `expert_argmax`.
        forbidden: ids that are never tried (blank, begin symbol, padding).
        eos: the end symbol, which may be tried.
        seed: of the run.
        update: its number.

    Raises:
        ValueError: no token is allowed, or the expert's tokens are needed and missing.
    """
    logits = logits_RV.detach().double().cpu().numpy().copy()
    rows, vocabulary = logits.shape
    allowed = np.setdiff1d(np.arange(vocabulary), list(forbidden))
    if not len(allowed):
        raise ValueError(f"every one of {vocabulary} tokens is forbidden as an action")
    logits[:, np.setdiff1d(np.arange(vocabulary), allowed)] = -np.inf
    if action == "student_argmax":
        actions = logits.argmax(axis=1)
    elif action == "student_sample":
        draws = uniform_draws("aggrevate-sample", utterance_ids, seed, update)
        actions = _sample(logits, draws)
    elif expert_argmax is None:
        raise ValueError("action 'expert_argmax' needs the expert's likeliest tokens")
    else:
        actions = np.asarray(expert_argmax, dtype=np.int64)
    coins = uniform_draws("aggrevate-coin", utterance_ids, seed, update)
    random = coins < random_action_share
    places = uniform_draws("aggrevate-token", utterance_ids, seed, update) * len(allowed)
    tokens = allowed[np.minimum(places.astype(np.int64), len(allowed) - 1)]
    actions = np.where(random, tokens, actions)
    ended = actions == eos
    strings = []
    for row in range(rows):
        before = rollouts.ids[row, : steps[row]]
        strings.append(before if ended[row] else np.append(before, actions[row]))
    return Explored(steps, actions, random, Labels.of(strings), ended)


def _sample(logits: NDArray[np.float64], draws: NDArray[np.float64]) -> IntArray:
    """A token of each row by inverting the cumulative distribution."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(p, axis=1)
    thresholds = draws * cumulative[:, -1]
    last = p.shape[1] - 1 - (p[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum((cumulative <= thresholds[:, None]).sum(axis=1), last))


def advantages(
    expert_rewards: NDArray[np.float64],
    prefix_rewards: NDArray[np.float64],
    student_rewards: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], BoolArray]:
    """What each action was worth, and whether it counts.

    The advantage is the reward of the expert's completion less that of the prefix with the action
    alone. It counts where the expert's completion is better than that prefix, or, with
    `student_rewards`, better than the student's own completion.

    Args:
        expert_rewards: (R,) of the expert's completions, in [0, 1].
        prefix_rewards: (R,) of the prefixes with their actions.
        student_rewards: (R,) of the student's completions.

    Raises:
        ValueError: for a reward outside [0, 1], such as one in percent.
    """
    for name, rewards in (
        ("expert", expert_rewards),
        ("prefix", prefix_rewards),
        ("student", student_rewards),
    ):
        if rewards is None:
            continue
        wrong = np.flatnonzero(~((rewards >= 0.0) & (rewards <= 1.0)))
        if len(wrong):
            raise ValueError(
                f"{name} reward of row {wrong[0]} is {rewards[wrong[0]]}; rewards must be between "
                "0 and 1 (divide percentages by 100, cut 1 - TER at 0)"
            )
    baseline = prefix_rewards if student_rewards is None else student_rewards
    return expert_rewards - prefix_rewards, expert_rewards > baseline


def regression_loss(
    logits_RV: Tensor, actions: IntArray, advantage: NDArray[np.float64], counts: BoolArray
) -> LossSum:
    """Sum over counting rows of `(g - advantage)^2`, counted in sentences (all R).

    `g = sigmoid(4 (z - middle) / (highest - lowest))`: z is the action's logit, highest and lowest
    those of its row, middle their mean. They are the scale on which z is read, so no gradient goes
    through them; where all logits are equal, g is 1/2. (The reference takes them over the whole
    batch, which ties sentences together, and uses |highest + lowest| / 2 as the middle.)

    Args:
        logits_RV: the student's raw logits at the steps.
        actions: (R,) tokens tried.
        advantage: (R,) of `advantages`.
        counts: (R,) of `advantages`.
    """
    keep = torch.tensor(counts, device=logits_RV.device)
    logits = torch.where(keep[:, None], _at_least_float(logits_RV), 0.0)
    chosen = _of_actions(logits, actions)
    highest = logits.detach().amax(dim=1)
    lowest = logits.detach().amin(dim=1)
    spread = torch.where(highest > lowest, highest - lowest, 1.0)
    g = torch.sigmoid(4.0 * (chosen - (highest + lowest) / 2.0) / spread)
    target = torch.tensor(advantage, device=g.device, dtype=g.dtype)
    rows = torch.where(keep, (g - target) ** 2, 0.0)
    return LossSum(rows.sum(), float(len(actions)), rows)


def policy_gradient_loss(
    logits_RV: Tensor, actions: IntArray, advantage: NDArray[np.float64], counts: BoolArray
) -> LossSum:
    """Sum over counting rows of `-advantage * log p(action)`, counted in sentences (all R).

    Arguments as of `regression_loss`.
    """
    keep = torch.tensor(counts, device=logits_RV.device)
    logits = torch.where(keep[:, None], _at_least_float(logits_RV), 0.0)
    log_p = _of_actions(torch.log_softmax(logits, dim=1), actions)
    target = torch.tensor(advantage, device=log_p.device, dtype=log_p.dtype)
    rows = torch.where(keep, -target * log_p, 0.0)
    return LossSum(rows.sum(), float(len(actions)), rows)


def _of_actions(values_RV: Tensor, actions: IntArray) -> Tensor:
    """(R,) the values of the actions."""
    index = torch.tensor(actions, device=values_RV.device, dtype=torch.int64)
    return values_RV.gather(1, index[:, None]).squeeze(1)


def _at_least_float(logits: Tensor) -> Tensor:
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.float() if half else logits
