"""Lengths to masks. Lengths decide what counts, never the values that lie in the padding."""

import torch
from torch import Tensor


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(B,) lengths to a (B, T) boolean mask, true on the utterance's own frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)
