"""What stays in float32 where the rest computes in half precision (`torch.autocast`).

A recurrence adds up over hundreds of frames what half precision rounds away, a residual stream
over all layers, and the logits' last digits are the probabilities. Elsewhere, nothing here changes
anything: float32 and float64 pass through as they are.
"""

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """A context without automatic casting, on the device of `like`; its inputs are `widened`."""
    return torch.autocast(like.device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; other types as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
