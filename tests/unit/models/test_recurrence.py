import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kd_ray.models.masks import frame_mask
from kd_ray.models.recurrence import (
    BidirectionalLayer,
    BidirectionalRnn,
    LiGruLayer,
    _GatedScan,
    reversal_index,
)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_reversal_turns_own_frames_round_and_is_its_own_inverse(lengths: list[int]) -> None:
    frames = max(lengths) + 1
    index = reversal_index(torch.tensor(lengths), frames)
    assert torch.equal(index[index], torch.arange(frames * len(lengths)))
    names = torch.arange(frames * len(lengths)).view(frames, -1)
    turned = names.flatten()[index].view(frames, -1)
    for row, length in enumerate(lengths):
        expected = [*reversed(names[:length, row].tolist()), *names[length:, row].tolist()]
        assert turned[:, row].tolist() == expected


@pytest.mark.parametrize(("kind", "gates"), [("gru", 3), ("ligru", 2)])
def test_hand_written_scan_gradient_is_the_numerical_one(kind: str, gates: int) -> None:
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "requires_grad": True}
    inputs = torch.randn(4, 3, 2, gates * 3, **double)
    weight = torch.randn(2, gates * 3, 3, **double)
    bias = torch.randn(2, gates * 3, **double)
    reversal = reversal_index(torch.tensor([4, 3, 1]), 4)
    assert torch.autograd.gradcheck(
        lambda *tensors: _GatedScan.apply(*tensors, reversal, kind), (inputs, weight, bias)
    )


def test_gru_on_the_cpu_is_torchs_packed_gru_with_its_gradients() -> None:
    torch.manual_seed(1)
    layer = BidirectionalLayer("gru", 5, 4).double()
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    lengths = torch.tensor([4, 7, 1])
    mask = frame_mask(lengths, 7).t().unsqueeze(-1)
    weights = torch.randn(7, 3, 8, dtype=torch.float64) * mask

    def gradients(out: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((out * weights).sum(), list(layer.parameters())))

    ours = layer(x, lengths, reversal_index(lengths, 7)) * mask
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    theirs, _ = pad_packed_sequence(layer.rnn(packed)[0], total_length=7)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def ligru_oracle(layer: LiGruLayer, x: Tensor) -> Tensor:
    """One utterance (T, I), frame by frame, gate by gate."""
    size = layer.size
    outputs = []
    for direction in (0, 1):
        order = range(len(x)) if direction == 0 else range(len(x) - 1, -1, -1)
        state = torch.zeros(size, dtype=x.dtype)
        states: dict[int, Tensor] = {}
        for t in order:
            parts = []
            for gate in (0, 1):
                block = 2 * direction + gate
                projected = layer.inputs.weight[block * size : (block + 1) * size] @ x[t]
                spread = ((projected - projected.mean()) ** 2).mean()
                normed = (projected - projected.mean()) / torch.sqrt(spread + 1e-5)
                normed = normed * layer.norm_scale[block] + layer.norm_bias[block]
                recurrent = layer.recurrent[direction, gate * size : (gate + 1) * size] @ state
                parts.append(normed + recurrent)
            update = 1 / (1 + torch.exp(-parts[0]))
            state = update * state + (1 - update) * torch.clamp(parts[1], min=0)
            states[t] = state
        outputs.append(torch.stack([states[t] for t in range(len(x))]))
    return torch.cat(outputs, dim=1)


def test_ligru_is_its_formula_on_each_utterance() -> None:
    torch.manual_seed(2)
    layer = LiGruLayer(5, 4).double()
    nn.init.normal_(layer.recurrent, std=0.5)
    nn.init.normal_(layer.norm_scale)
    nn.init.normal_(layer.norm_bias)
    x, lengths = torch.randn(6, 3, 5, dtype=torch.float64), torch.tensor([6, 2, 5])
    out = layer(x, lengths, reversal_index(lengths, 6))
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            out[:length, row], ligru_oracle(layer, x[:length, row]), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["gru", "lstm", "ligru"])
def test_stacked_layers_give_an_utterance_alone_what_they_give_it_in_a_batch(kind: str) -> None:
    torch.manual_seed(3)
    rnn = BidirectionalRnn(kind, input_size=5, size=4, num_layers=2, dropout=0.3).eval()
    for name, parameter in rnn.named_parameters():
        if "recurrent" in name:
            nn.init.normal_(parameter, std=0.5)
    lengths = torch.tensor([3, 6, 1])
    mask = frame_mask(lengths, 6).t().unsqueeze(-1).float()
    x = torch.randn(6, 3, 5) * mask
    together = rnn(x, lengths, mask)
    assert (together * (1 - mask)).abs().max() == 0
    for row, length in enumerate(lengths.tolist()):
        alone = rnn(x[:length, row : row + 1], lengths[row : row + 1], torch.ones(length, 1, 1))
        torch.testing.assert_close(together[:length, row], alone[:, 0], rtol=0, atol=1e-6)
