"""The student's SpecAugment masks on features of any front end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.data import LogMel, SpecAugment
from kd_ray.core.contracts import Masks
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.spec_augment import carried_masks, draw_masks, masked_cells, spec_augment

AUGMENT = SpecAugment(time_masks=3, max_time_s=0.2, frequency_masks=2, max_frequency=0.3)
IDS = ["a", "b", "c"]


def student_masks(front_end, lengths, epoch=4, augment=AUGMENT):
    extractor = LogMelExtractor(front_end)
    drawn = draw_masks(
        lengths, augment, seed=7, utterance_ids=IDS[: len(lengths)], epoch=epoch,
        frame_shift_s=front_end.frame_shift_ms / 1000, num_mels=front_end.num_mels,
    )  # fmt: skip
    return drawn, carried_masks(drawn, extractor)


@settings(max_examples=60, deadline=None)
@given(
    front_end=st.builds(
        LogMel,
        num_mels=st.integers(8, 90),
        frame_shift_ms=st.sampled_from([5.0, 7.3, 10.0, 11.3, 12.5, 20.0]),
        frame_length_ms=st.sampled_from([20.0, 25.0, 32.0]),
        snip_edges=st.booleans(),
    ),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    epoch=st.integers(0, 50),
)
def test_the_same_front_end_masks_the_very_same_cells(front_end, lengths, epoch):
    _, masks = student_masks(front_end, lengths, epoch)
    frames = max(lengths) + 3
    mine = spec_augment(
        torch.ones(len(lengths), frames, front_end.num_mels), torch.tensor(lengths), AUGMENT,
        seed=7, utterance_ids=IDS[: len(lengths)], epoch=epoch,
        frame_shift_s=front_end.frame_shift_ms / 1000,
    )  # fmt: skip
    cells = masked_cells(masks, torch.tensor(lengths), frames, LogMelExtractor(front_end))
    assert torch.equal(mine == 0, cells)


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize(("shift_ms", "num_mels"), [(10.0, 64), (5.0, 40), (12.5, 80), (20.0, 23)])
def test_another_front_end_masks_the_same_times_and_fractions(shift_ms, num_mels, snip_edges):
    drawn, masks = student_masks(LogMel(), [200])
    other = LogMel(num_mels=num_mels, frame_shift_ms=shift_ms, snip_edges=snip_edges)
    frames = int(2000 / shift_ms)
    cells = masked_cells(masks, torch.tensor([frames]), frames, LogMelExtractor(other))[0].numpy()
    # By hand: middles in ms of frames, and in fortieths of channels, of student and other.
    first_ms = 12.5 - shift_ms / 2 if snip_edges else 0.0
    for frame in range(frames):
        middle = (first_ms + (frame + 0.5) * shift_ms) / 10
        hidden = any(start <= middle < end for start, end in drawn.frames[0])
        assert cells[frame].all() == hidden
    shown = ~cells.all(axis=1)
    for mel in range(num_mels):
        middle = (mel + 0.5) / num_mels * 40
        assert cells[shown, mel].all() == any(start <= middle < end for start, end in drawn.mels[0])
    assert cells.any()


def test_neither_padding_nor_batch_mates_move_a_mask():
    front_end, lengths = LogMel(num_mels=20), [150, 40, 90]
    extractor = LogMelExtractor(front_end)
    _, masks = student_masks(front_end, lengths)
    together = masked_cells(masks, torch.tensor(lengths), 170, extractor)
    for row, length in enumerate(lengths):
        alone = masked_cells(masks.take([row]), torch.tensor([length]), length, extractor)
        assert torch.equal(alone[0], together[row, :length])
        assert not together[row, length:].any()


def test_each_epoch_and_each_utterance_has_masks_of_its_own():
    front_end = LogMel()
    (first, _), (second, _) = (student_masks(front_end, [300, 300], epoch) for epoch in (1, 2))
    assert not np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames[0], first.frames[1])
    again, _ = student_masks(front_end, [300, 300], 1)
    np.testing.assert_array_equal(first.frames, again.frames)


def test_no_masks_hide_nothing():
    masks = Masks(np.zeros((2, 0, 2)), np.array([[[0.5, 0.5]], [[0.0, 0.0]]]))
    assert not masked_cells(masks, torch.tensor([5, 9]), 9, LogMelExtractor(LogMel())).any()
