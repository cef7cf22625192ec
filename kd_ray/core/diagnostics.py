"""What an imitation run looks like from inside: sums that add over batches and workers.

Shapes: B utterances, R items, U target positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from kd_ray.core.contracts import Labels, Signal
from kd_ray.core.criteria.protocol import take_items
from kd_ray.core.imitation import Items, rows_of
from kd_ray.core.losses import forward_kl, token_tensors
from kd_ray.core.targets import FloatArray, IntArray, TokenTarget, likeliest, take_rows


@dataclass(frozen=True)
class ImitationSums:
    """Counts and sums; `+` adds them up, `values` and `of` carry them through an all-reduce."""

    utterances: float = 0.0
    replaced: float = 0.0
    """Utterances with a rollout among their items."""
    rollouts: float = 0.0
    cap_hits: float = 0.0
    """Rollouts that ended because they were as long as allowed."""
    compared_rollout_tokens: float = 0.0
    """Tokens of rollouts whose utterances have a reference."""
    compared_reference_tokens: float = 0.0
    """Tokens of those references."""
    data_positions: float = 0.0
    """Scored by teachers on data prefixes."""
    rollout_positions: float = 0.0
    data_entropy: float = 0.0
    """Of the teachers' distributions, in nats, summed over positions."""
    rollout_entropy: float = 0.0
    data_agreement: float = 0.0
    """Positions at which the teachers' likeliest token is the next one of the data prefix."""
    rollout_agreement: float = 0.0
    """The same for the student's own next token."""
    kl_data_positions: float = 0.0
    """Positions whose divergence was measured."""
    kl_rollout_positions: float = 0.0
    data_kl: float = 0.0
    """KL(teachers || student), in nats, summed over positions."""
    rollout_kl: float = 0.0
    aged_rollouts: float = 0.0
    """Rollouts of runs that read old ones too."""
    rollout_ages: float = 0.0
    """Of those, in updates, summed."""
    aged_sentences: float = 0.0
    """Sentences that have such a rollout."""
    reused: float = 0.0
    """Sentences for which no new rollout was written."""

    def __add__(self, other: "ImitationSums") -> "ImitationSums":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ImitationSums(*(mine + theirs for mine, theirs in pairs))

    def values(self) -> list[float]:
        """The sums, in the order of the fields."""
        return list(astuple(self))

    @classmethod
    def of(cls, values: Sequence[float]) -> "ImitationSums":
        """From `values`, perhaps added up over workers."""
        if len(values) != len(fields(cls)):
            raise ValueError(f"{len(fields(cls))} sums are needed, {len(values)} came")
        return cls(*values)

    def figures(self) -> dict[str, float]:
        """Means, for a line of metrics; what was never counted is left out."""
        ratios = {
            "replaced_share": (self.replaced, self.utterances),
            "rollout_cap_share": (self.cap_hits, self.rollouts),
            "rollout_length_ratio": (
                self.compared_rollout_tokens,
                self.compared_reference_tokens,
            ),
            "teacher_entropy_data": (self.data_entropy, self.data_positions),
            "teacher_entropy_rollout": (self.rollout_entropy, self.rollout_positions),
            "teacher_agrees_data": (self.data_agreement, self.data_positions),
            "teacher_agrees_rollout": (self.rollout_agreement, self.rollout_positions),
            "kl_data": (self.data_kl, self.kl_data_positions),
            "kl_rollout": (self.rollout_kl, self.kl_rollout_positions),
            "rollout_age_updates": (self.rollout_ages, self.aged_rollouts),
            "rollouts_per_sentence": (self.aged_rollouts, self.aged_sentences),
            "rollout_reused_share": (self.reused, self.aged_sentences),
        }
        return {name: over / under for name, (over, under) in ratios.items() if under > 0}


def rollout_sums(
    items: Items, references: Labels | None, utterances: int, caps: IntArray | None = None
) -> ImitationSums:
    """Shares and lengths of rollouts.

    Args:
        items: of a micro-batch.
        references: (B rows), -1 or None where there is none.
        utterances: B.
        caps: (B,) most tokens of each rollout (`rollout_caps`); a rollout of that length counts as
            cut, although it might have ended there by itself.
    """
    rows = np.flatnonzero(items.on_policy)
    whose = items.utterance[rows]
    lengths = np.asarray(items.prefix.lengths)[rows]
    expected = (
        np.full(len(rows), -1) if references is None else np.asarray(references.lengths)[whose]
    )
    known = expected >= 0
    return ImitationSums(
        utterances=float(utterances),
        replaced=float(len(np.unique(whose))),
        rollouts=float(len(rows)),
        cap_hits=0.0 if caps is None else float((lengths >= caps[whose]).sum()),
        compared_rollout_tokens=float(lengths[known].sum()),
        compared_reference_tokens=float(expected[known].sum()),
    )


def age_sums(ages: Sequence[Sequence[int]]) -> ImitationSums:
    """Ages of the rollouts of each sentence, in updates, the newest one's last."""
    return ImitationSums(
        aged_rollouts=float(sum(len(each) for each in ages)),
        rollout_ages=float(sum(sum(each) for each in ages)),
        aged_sentences=float(len(ages)),
        reused=float(sum(each[-1] > 0 for each in ages)),
    )


def teacher_sums(items: Items, signal: Signal, *, eos: int) -> ImitationSums:
    """Entropy and agreement of the fused teachers on each kind of prefix.

    Costs no forward pass. Of a sparse target the tail counts as one more outcome.
    """
    tokens = signal.tokens
    if tokens is None or not items.asked.any():
        return ImitationSums()
    rows = items.asked_rows
    positions = items.positions[rows]
    width = int(positions.max(initial=0))
    valid = np.arange(width) < positions[:, None]
    next_tokens = np.full((len(rows), width), eos, dtype=np.int64)
    for place, string in enumerate(rows_of(items.prefix, rows).strings()):
        next_tokens[place, : len(string)] = string
    agrees = ((likeliest(tokens)[:, :width] == next_tokens) & valid).sum(axis=1)
    entropy = np.where(valid, _entropy(tokens)[:, :width], 0.0).sum(axis=1)
    rollout = items.on_policy[rows]
    return ImitationSums(
        data_positions=float(positions[~rollout].sum()),
        rollout_positions=float(positions[rollout].sum()),
        data_entropy=float(entropy[~rollout].sum()),
        rollout_entropy=float(entropy[rollout].sum()),
        data_agreement=float(agrees[~rollout].sum()),
        rollout_agreement=float(agrees[rollout].sum()),
    )


def divergence_sums(
    items: Items, signal: Signal, decoder_logits: Tensor, *, temperature: float = 1.0
) -> ImitationSums:
    """KL(teachers || student) on each kind of prefix, without gradient.

    Costs a softmax over the student's logits: measure it where a line of metrics is written, or at
    every update if the vocabulary is small.

    Args:
        items: of a micro-batch.
        signal: about its asked items, softened by `temperature`.
        decoder_logits: (R, U, V) of the loss's forward pass.
        temperature: of the student.
    """
    if signal.tokens is None or not items.asked.any():
        return ImitationSums()
    rows = items.asked_rows
    sums = {}
    for name, places in (
        ("data", np.flatnonzero(~items.on_policy[rows])),
        ("rollout", np.flatnonzero(items.on_policy[rows])),
    ):
        target = take_rows(signal.tokens, places)
        with torch.no_grad():
            logits = take_items(
                decoder_logits.detach(), rows[places], int(target.lengths.max(initial=0))
            )
            loss = forward_kl(logits, token_tensors(target, logits.device), temperature=temperature)
        sums[f"{name}_kl"] = float(loss.sum)
        sums[f"kl_{name}_positions"] = loss.count
    return ImitationSums(**sums)


def _entropy(tokens: TokenTarget) -> FloatArray:
    """(B, U) in nats; anything in padding."""
    valid = np.arange(tokens.log_probs.shape[1]) < np.asarray(tokens.lengths)[:, None]
    log_p = np.where(valid[..., None], tokens.log_probs, 0.0).astype(np.float64)
    if tokens.log_tail is not None:
        tail = np.where(valid, tokens.log_tail, 0.0).astype(np.float64)
        log_p = np.concatenate([log_p, tail[..., None]], axis=-1)
    p = np.exp(log_p)
    terms: FloatArray = -np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0).sum(axis=-1)
    return terms
