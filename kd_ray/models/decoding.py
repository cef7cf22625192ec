"""Greedy decoding, of the CTC head and of the attention decoder.

Shapes: B utterances, T encoder frames, V vocabulary.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.models.encoders import Encoded

if TYPE_CHECKING:
    from kd_ray.models.recognizer import RecognizerModel


def ctc_collapse(path: NDArray[np.integer] | list[int], blank: int) -> list[int]:
    """A frame-wise path of ids to its labels: merge repeats, then drop blanks (Graves 2006)."""
    ids = np.asarray(path, dtype=np.int64)
    keep = ids != blank
    keep[1:] &= ids[1:] != ids[:-1]
    labels: list[int] = ids[keep].tolist()
    return labels


def ctc_greedy(logits: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """Labels of each row's best path.

    Args:
        logits: (B, T, V), logits or log-probabilities.
        lengths: (B,) frames that count.
        blank: id of the CTC blank.

    Ties go to the lowest id.
    """
    paths = logits.detach().argmax(-1).cpu().numpy()
    return [
        ctc_collapse(path[:length], blank)
        for path, length in zip(paths, lengths.tolist(), strict=True)
    ]


@torch.no_grad()
def attention_greedy(
    model: "RecognizerModel", encoded: Encoded, max_lengths: Tensor
) -> list[list[int]]:
    """The decoder's own most likely token at each step, until its end of sentence.

    Args:
        model: in eval mode, unless dropout in decoding is meant.
        encoded: what `model.encode` gave.
        max_lengths: (B,) tokens after which a row stops unfinished.

    Returns:
        Ids of each row without bos and eos. Blank and bos are never emitted. A row does not
        depend on its batch mates; the batch ends when the last row has.
    """
    decoder = model.decoder
    memory = decoder.memory(encoded)
    state = decoder.initial_state(memory)
    limits = max_lengths.to(encoded.states.device)
    rows = len(limits)
    tokens = torch.full((rows,), model.bos, device=limits.device)
    lengths = limits.clone()
    open_rows = limits > 0
    steps: list[Tensor] = []
    for position in range(int(limits.max()) if rows else 0):
        state = decoder.step(decoder.read(tokens), state, memory)
        logits = decoder.logits(state.hidden, state.context)
        logits[:, [model.blank, model.bos]] = float("-inf")
        tokens = logits.argmax(-1)
        steps.append(tokens)
        ends = open_rows & (tokens == model.eos)
        lengths = torch.where(ends, lengths.clamp(max=position), lengths)
        open_rows = open_rows & ~ends & (position + 1 < limits)
        if not bool(open_rows.any()):
            break
    if not steps:
        return [[] for _ in range(rows)]
    paths = torch.stack(steps, dim=1).tolist()
    return [path[:length] for path, length in zip(paths, lengths.tolist(), strict=True)]
