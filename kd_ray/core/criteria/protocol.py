"""What every criterion offers, and what criteria share.

Shapes: B utterances, R items, T student frames, U target positions, V vocabulary.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.core.contracts import Labels, Signal, Wanted
from kd_ray.core.imitation import Items
from kd_ray.core.losses import LossSum
from kd_ray.core.targets import FloatArray, IntArray

Part = Literal["kd_ctc", "kd_att", "sup_ctc", "sup_att", "aggrevate"]
"""Teachers' or reference's part, of the CTC or the attention head; or tried actions."""


class Criterion(Protocol):
    """What the loop needs of a criterion.

    `references`: one row for each utterance; a row of length -1 has no reference, and None means
    that no row has. `frames` (B,): the student's encoder frames, as an array on the host. `items`:
    the R prefixes that the decoder reads, None where it reads each utterance's reference (or the
    prefix that teachers chose for it); decoder logits have a row for each item.
    """

    weights: Mapping[Part, float]
    """Parts that take part, with what their means are multiplied by. The parts are those of the
    whole run; the numbers are those of its first update."""
    wanted: frozenset[Wanted]
    """What to ask teachers for; empty where none is needed."""

    def counts(
        self,
        *,
        references: Labels | None,
        signal: Signal | None,
        frames: IntArray,
        items: Items | None = None,
    ) -> dict[Part, float]:
        """What each part of `losses` will count; always the same keys, whatever the batch."""
        ...

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None,
        items: Items | None = None,
    ) -> dict[str, LossSum]:
        """The parts, as sums by utterance.

        Logits (B, T, V) and (R, U, V) may be None for an unused head.
        """
        ...

    def total(
        self,
        losses: Mapping[str, LossSum],
        counts: Mapping[Part, float],
        *,
        alpha: float | None = None,
    ) -> Tensor:
        """The weighted sum of `losses`, each divided by its (global) count.

        `alpha`: the teachers' share at this update (`schedules.alpha_at`), where it is scheduled.
        """
        ...


def weighted_means(
    weights: Mapping[Part, float], losses: Mapping[str, LossSum], counts: Mapping[Part, float]
) -> Tensor:
    """Sum of weighted means; a part that counted nothing anywhere has a sum of zero."""
    terms = [weight * losses[part].sum / (counts[part] or 1.0) for part, weight in weights.items()]
    return torch.stack(terms).sum()


def unlabelled(references: Labels | None, rows: int) -> NDArray[np.bool_]:
    """(B,) true where there is no reference."""
    if references is None:
        return np.ones(rows, dtype=np.bool_)
    return np.asarray(references.lengths) < 0


def head(logits: Tensor | None, name: str) -> Tensor:
    """The logits of a head that is needed."""
    if logits is None:
        raise ValueError(f"this criterion learns from the {name} head, and no logits of it came")
    return logits


def take_items(logits: Tensor, rows: IntArray, longest: int) -> Tensor:
    """Logits (len(rows), longest, V) of some items; no copy where all are taken."""
    if len(rows) == logits.shape[0]:
        return logits
    return logits[:, :longest].index_select(0, torch.tensor(rows, device=logits.device))


def add_by_utterance(
    sums: Tensor, of_items: Tensor, items: Items, rows: IntArray, weights: FloatArray
) -> Tensor:
    """`sums` (B,) plus the weighted losses (len(rows),) of the items `rows`."""
    device = of_items.device
    weighted = of_items * torch.tensor(weights[rows], device=device, dtype=of_items.dtype)
    return sums.index_add(0, torch.tensor(items.utterance[rows], device=device), weighted)


def nothing_yet(logits: Tensor, utterances: int) -> Tensor:
    """(B,) zeros that know the way back to `logits`, so that an empty batch has a gradient."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    zeros = torch.zeros(utterances, dtype=dtype, device=logits.device)
    return zeros + logits[:0].sum().to(dtype)


def check_items(logits: Tensor, items: Items) -> None:
    """There is a row of decoder logits for each item.

    Raises:
        ValueError: naming both numbers.
    """
    longest = int(items.positions.max(initial=0))
    if logits.shape[0] != len(items) or logits.shape[1] < longest:
        raise ValueError(
            f"{len(items)} items of up to {longest} positions, but the student's decoder logits "
            f"have {logits.shape[0]} rows of {logits.shape[1]}; the decoder must read "
            "`items.prefix` for the utterances `items.utterance`"
        )
