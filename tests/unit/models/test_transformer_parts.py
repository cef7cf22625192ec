"""The parts against slow references in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.model import BerardDecoder, BerardEncoder, SpeechTransformerEncoder
from kd_ray.models.attention import CrossAttention, SelfAttention
from kd_ray.models.berard import BerardDecoderStack, BerardEncoderStack
from kd_ray.models.encoders import Encoded
from kd_ray.models.transformer import SpeechTransformer, sinusoids


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def torchs_own(
    parts: list[Tensor], biases: list[Tensor], output: nn.Linear, heads: int
) -> nn.Module:
    """`nn.MultiheadAttention` with these query, key and value weights."""
    size = output.out_features
    theirs = nn.MultiheadAttention(
        size, heads, kdim=parts[1].shape[1], vdim=parts[2].shape[1], batch_first=True
    ).double()
    if theirs.in_proj_weight is None:
        weights = [theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight]
    else:
        weights = list(theirs.in_proj_weight.data.split(size))
    for mine, other in zip(parts, weights, strict=True):
        other.data.copy_(mine)
    theirs.in_proj_bias.data.copy_(torch.cat(biases))
    theirs.out_proj.load_state_dict(output.state_dict())
    return theirs


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_torchs_multi_head_attention(causal: bool) -> None:
    ours = SelfAttention(12, 3, dropout=0.0).double()
    theirs = torchs_own(
        list(ours.projection.weight.split(12)), [ours.projection.bias], ours.output, 3
    )
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    own = torch.arange(5) < torch.tensor([[5], [3]])
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, key_padding_mask=None if causal else ~own, attn_mask=hidden)
    found = ours(x, causal=True) if causal else ours(x, mask=own[:, None, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_cross_attention_is_torchs_multi_head_attention() -> None:
    ours = CrossAttention(12, 3, 7, dropout=0.0).double()
    keys_values = list(ours.memory_projection.weight.split(12))
    biases = [ours.query.bias, ours.memory_projection.bias]
    theirs = torchs_own([ours.query.weight, *keys_values], biases, ours.output, 3)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    states = torch.randn(2, 4, 7, dtype=torch.float64)
    own = torch.arange(4) < torch.tensor([[4], [1]])
    expected, _ = theirs(x, states, states, key_padding_mask=~own)
    found = ours(x, ours.memory(states), own[:, None, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_positions_are_sines_and_cosines_of_falling_frequency() -> None:
    table = sinusoids(3, 5, 6, torch.zeros(1, dtype=torch.float64))
    for row, position in enumerate((3, 4)):
        rates = [1.0, 10_000**-0.5, 1 / 10_000]
        expected = [math.sin(position * rate) for rate in rates]
        expected += [math.cos(position * rate) for rate in rates]
        assert table[row].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 8, 9])
def test_subsampling_is_convolution_and_gate_on_the_utterances_own_frames(frames: int) -> None:
    config = SpeechTransformerEncoder(size=8, heads=2, layers=1, conv_channels=6)
    encoder = SpeechTransformer(config, 5).double()
    features = torch.randn(2, 9, 5, dtype=torch.float64)
    features[1, frames:] = 0
    x, lengths = features.transpose(1, 2), torch.tensor([9, frames])
    alone = features[1:, :frames].transpose(1, 2)
    for convolution in encoder.convolutions:
        x, lengths = convolution(x, lengths)
        weight, bias = convolution.conv.weight, convolution.conv.bias
        alone = F.conv1d(F.pad(alone, (2, 2)), weight, bias, stride=2)
        half = alone.shape[1] // 2
        alone = alone[:, :half] * torch.sigmoid(alone[:, half:])
    assert lengths[1] == alone.shape[2] == encoder.output_frames(frames)
    torch.testing.assert_close(x[1, :, : lengths[1]], alone[0], rtol=0, atol=1e-12)


def test_berards_decoder_is_its_formula() -> None:
    config = BerardDecoder(
        embedding_size=4, layers=3, hidden_size=6, attention_size=5, output_size=7, dropout=0
    )
    decoder = BerardDecoderStack(
        config, encoder_size=6, vocabulary_size=9, share_embeddings=False
    ).double()
    states, inputs = torch.randn(1, 4, 6, dtype=torch.float64), torch.tensor([[1, 5, 3]])
    states[:, 3:] = 0
    found = decoder(Encoded(states, torch.tensor([3])), inputs)[0]

    def lstm(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
        entry, forget, candidate, output = gates.split(6)
        c = torch.sigmoid(forget) * c + torch.sigmoid(entry) * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(c), c

    heard = states[0, :3]
    hidden, cell = heard.mean(0), torch.zeros(6, dtype=torch.float64)
    for position, token in enumerate(inputs[0]):
        embedded = decoder.embedding.weight[token]
        hidden, cell = lstm(decoder.cells[0], embedded, hidden, cell)
        scores = torch.stack(
            [
                decoder.score.weight[0]
                @ torch.tanh(decoder.keys(state) + decoder.query.weight @ hidden)
                for state in heard
            ]
        )
        context = (scores.exp() / scores.exp().sum()) @ heard
        for layer in decoder.cells[1:]:
            hidden, cell = lstm(layer, context, hidden, cell)
        readout = torch.tanh(decoder.readout(torch.cat([hidden, context, embedded])))
        torch.testing.assert_close(found[position], decoder.output(readout), rtol=0, atol=1e-12)


def test_berards_encoder_on_one_utterance_is_plain_torch() -> None:
    config = BerardEncoder(
        input_sizes=(6, 5), conv_channels=(3, 2), rnn_layers=2, rnn_size=4, dropout=0
    )
    encoder = BerardEncoderStack(config, 7).double()
    features = torch.randn(1, 11, 7, dtype=torch.float64)
    x = features
    for linear in encoder.inputs:
        x = torch.tanh(linear(x))
    x = x.unsqueeze(1)
    for convolution in encoder.convolutions:
        x = convolution(x)
    x = x.permute(2, 0, 1, 3).flatten(2)
    for layer in encoder.rnn.layers:
        x, _ = layer.rnn(x)
    found = encoder(features, torch.tensor([11]))
    torch.testing.assert_close(found.states, x.transpose(0, 1), rtol=0, atol=1e-12)
    assert found.lengths.tolist() == [3] == [encoder.output_frames(11)]
