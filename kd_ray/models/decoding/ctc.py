"""Greedy decoding of a CTC head.

Shapes: B utterances, T encoder frames, V vocabulary.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.models.masks import frame_mask


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


def finite_rows(logits: Tensor, lengths: Tensor) -> NDArray[np.bool_]:
    """(B,) in which rows each frame has a best label; arguments as for `ctc_greedy`.

    The highest logit of a frame is NaN or +inf if one of them is, and -inf if all are. Below it,
    -inf is what a model masks. Padding may hold what it likes.
    """
    bad = ~logits.detach().amax(-1).isfinite() & frame_mask(lengths, logits.shape[1])
    rows: NDArray[np.bool_] = ~bad.any(dim=1).cpu().numpy()
    return rows
