"""SpecAugment: masks drawn for the student's features, and the same masks on any other front end.

Shapes: B utterances, T frames, F mel channels, M time masks, N frequency masks.

Source: Park et al. 2019 (arXiv 1904.08779), without time warping.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.data import SpecAugment
from kd_ray.core.contracts import Masks
from kd_ray.core.targets import IntArray
from kd_ray.speech.features import LogMelExtractor


class FrameMasks(NamedTuple):
    """First and behind the last of what is masked: `frames` (B, M, 2), `mels` (B, N, 2)."""

    frames: IntArray
    mels: IntArray


def draw_masks(
    lengths: Sequence[int],
    config: SpecAugment,
    *,
    seed: int,
    utterance_ids: Sequence[str],
    epoch: int,
    frame_shift_s: float,
    num_mels: int,
) -> FrameMasks:
    """The masks of each utterance: of (seed, its id, epoch) and its own length alone.

    Each width is uniform on 0..the largest, each place uniform on where the mask fits.

    Args:
        lengths: of B utterances, in frames.
        config: numbers and largest widths of the masks.
        seed: of the run.
        utterance_ids: B of them.
        epoch: masks are drawn anew in each.
        frame_shift_s: seconds per frame, for `config.max_time_s`.
        num_mels: F.
    """
    rows = len(utterance_ids)
    frames = np.zeros((rows, config.time_masks, 2), dtype=np.int64)
    mels = np.zeros((rows, config.frequency_masks, 2), dtype=np.int64)
    # The tolerance: 0.15 s in frames of 0.01 s are 15, not 14.
    max_frames = int(config.max_time_s / frame_shift_s + 1e-6)
    max_mels = int(config.max_frequency * num_mels + 1e-6)
    for row, (name, length) in enumerate(zip(utterance_ids, lengths, strict=True)):
        generator = _generator(seed, name, epoch)
        longest = min(max_frames, int(config.max_time_share * length + 1e-6))
        for place in range(config.time_masks):
            frames[row, place] = _span(generator, length, longest)
        for place in range(config.frequency_masks):
            mels[row, place] = _span(generator, num_mels, max_mels)
    return FrameMasks(frames, mels)


def spec_augment(
    features: Tensor,
    lengths: Tensor,
    config: SpecAugment,
    *,
    seed: int,
    utterance_ids: Sequence[str],
    epoch: int,
    frame_shift_s: float,
) -> Tensor:
    """Features with `draw_masks` set to zero, the mean of normalised features.

    Frames at and beyond `lengths` stay as they are.

    Args:
        features: (B, T, F), normalised; not changed.
        lengths: (B,) in frames.
        config: as in `draw_masks`, and so all others.
        seed: likewise.
        utterance_ids: likewise.
        epoch: likewise.
        frame_shift_s: likewise.
    """
    num_rows, num_frames, num_mels = features.shape
    if not num_rows == len(utterance_ids) == len(lengths):
        raise ValueError(
            f"spec_augment: {num_rows} rows, {len(lengths)} lengths, {len(utterance_ids)} ids"
        )
    counts = lengths.tolist()
    masks = draw_masks(
        counts, config, seed=seed, utterance_ids=utterance_ids, epoch=epoch,
        frame_shift_s=frame_shift_s, num_mels=num_mels,
    )  # fmt: skip
    masked = _cells(
        _within(np.arange(num_frames), masks.frames),
        _within(np.arange(num_mels), masks.mels),
        counts,
    )
    return features.masked_fill(torch.from_numpy(masked).to(features.device), 0.0)


def carried_masks(masks: FrameMasks, extractor: LogMelExtractor) -> Masks:
    """Masks of one front end's features in the words that every front end understands."""
    return Masks(
        times_s=extractor.first_frame_s + np.float64(extractor.frame_shift_s) * masks.frames,
        mels=masks.mels / np.float64(extractor.config.num_mels),
    )


def masked_cells(
    masks: Masks, lengths: Tensor, num_frames: int, extractor: LogMelExtractor
) -> Tensor:
    """(B, T, F) true where a front end's own features lie in the masks.

    A frame is masked where its middle lies in a masked time, a mel channel where its middle lies
    in a masked part of the axis. So a front end like the student's masks the very same cells, half
    a cell away from any rounding.
    """
    num_mels = extractor.config.num_mels
    middles_s = extractor.first_frame_s + (np.arange(num_frames) + 0.5) * extractor.frame_shift_s
    middles = (np.arange(num_mels) + 0.5) / num_mels
    cells = _cells(
        _within(middles_s, masks.times_s), _within(middles, masks.mels), lengths.tolist()
    )
    return torch.from_numpy(cells)


def _within(places: NDArray[np.number], spans: NDArray[np.number]) -> NDArray[np.bool_]:
    """(B, P) true for places (P,) inside any of the spans (B, M, 2)."""
    inside = (spans[..., :1] <= places) & (places < spans[..., 1:])
    return np.asarray(inside.any(axis=1))


def _cells(
    times_BT: NDArray[np.bool_], mels_BF: NDArray[np.bool_], lengths: Sequence[int]
) -> NDArray[np.bool_]:
    """(B, T, F) true at masked times or mels of the utterance's own frames."""
    own = np.arange(times_BT.shape[1]) < np.asarray(lengths, dtype=np.int64)[:, None]
    return np.asarray((times_BT[:, :, None] | mels_BF[:, None, :]) & own[:, :, None])


def _generator(seed: int, utterance_id: str, epoch: int) -> np.random.Generator:
    digest = hashlib.sha256(json.dumps([seed, utterance_id, epoch]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _span(generator: np.random.Generator, size: int, max_width: int) -> tuple[int, int]:
    """First and behind the last place of a mask inside 0..size."""
    width = int(generator.integers(0, max_width, endpoint=True))
    start = int(generator.integers(0, size - width, endpoint=True))
    return start, start + width
