"""Dropout whose random numbers cost little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 256


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout: elements become zero with `probability`, the others are scaled up.

    On the CPU one random byte decides for each element, so the probability is rounded to the
    nearest 1/256 and the scale fits the rounded one (torch draws a float for each element, which
    takes ten times as long). Seeded by torch's default generator.
    """
    if not training or probability == 0 or x.is_cuda:
        return F.dropout(x, probability, training)
    dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    kept = (words.view(torch.uint8)[: x.numel()] >= dropped).view(x.shape)
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
