import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from model_doubles import BLANK, BOS, EOS, MELS, VOCABULARY, batch, tiny_config, tiny_model

from kd_ray.models.encoders import ConvBlock
from kd_ray.models.recognizer import RecognizerModel, RecognizerOutput

LENGTHS = [13, 24, 1, 8]
PREFIX = torch.tensor([[3, 4, 5, 6], [7, 8, 3, 3], [9, 1, 1, 1], [4, 4, 9, 9]])
PREFIX_LENGTHS = torch.tensor([4, 2, 0, 3])
KINDS = [*product(["gru", "lstm", "ligru"], ["gru", "lstm"])]


def run(model: RecognizerModel, *, padding: float, prefix: torch.Tensor) -> RecognizerOutput:
    features, lengths = batch(LENGTHS, padding=padding)
    normalized = model.normalize(features, lengths)
    normalized[torch.isnan(features)] = padding  # an augmentation may write there again
    return model(normalized, lengths, prefix, PREFIX_LENGTHS)


@pytest.mark.parametrize(("rnn", "cell"), KINDS)
def test_an_utterance_alone_gives_what_it_gives_in_a_batch(rnn: str, cell: str) -> None:
    model = tiny_model(rnn=rnn, cell=cell).eval()
    with torch.no_grad():
        together = run(model, padding=math.nan, prefix=PREFIX)
        for row, length in enumerate(LENGTHS):
            features, _ = batch(LENGTHS)
            own, positions = features[row : row + 1, :length], int(PREFIX_LENGTHS[row])
            count = torch.tensor([length])
            alone = model(
                model.normalize(own, count),
                count,
                PREFIX[row : row + 1, :positions],
                PREFIX_LENGTHS[row : row + 1],
            )
            frames = int(together.ctc_lengths[row])
            assert frames == model.output_frames(length) == alone.ctc_logits.shape[1]
            torch.testing.assert_close(
                together.ctc_logits[row, :frames], alone.ctc_logits[0], rtol=0, atol=1e-5
            )
            torch.testing.assert_close(
                together.decoder_logits[row, : positions + 1],
                alone.decoder_logits[0],
                rtol=0,
                atol=1e-5,
            )


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_padding_reaches_neither_outputs_nor_gradients(garbage: float) -> None:
    def outputs_and_gradients(padding: float, prefix: torch.Tensor) -> list[torch.Tensor]:
        model = tiny_model(rnn="gru")
        out = run(model, padding=padding, prefix=prefix)
        own = torch.arange(prefix.shape[1] + 1) <= PREFIX_LENGTHS.unsqueeze(1)
        decoder = out.decoder_logits[own]
        loss = decoder.square().mean() + out.ctc_logits.square().mean()
        return [out.ctc_logits, decoder, *torch.autograd.grad(loss, list(model.parameters()))]

    garbled = PREFIX.clone()
    garbled[torch.arange(4) >= PREFIX_LENGTHS.unsqueeze(1)] = -100
    clean = outputs_and_gradients(0.0, PREFIX)
    dirty = outputs_and_gradients(garbage, garbled)
    assert all(bool(torch.isfinite(value).all()) for value in dirty)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("normalizer", ["utterance", "global"])
def test_normalised_frames_have_the_promised_statistics(normalizer: str) -> None:
    model = tiny_model(normalizer=normalizer)
    features, lengths = batch(LENGTHS, padding=math.nan)
    model.set_normalizer(torch.arange(float(MELS)), torch.full((MELS,), 2.0))
    normalized = model.normalize(features, lengths)
    for row, length in enumerate(LENGTHS):
        own = features[row, :length]
        if normalizer == "utterance":
            deviation = own.std(0, unbiased=False).clamp(min=1e-3)
            expected = (own - own.mean(0)) / deviation
        else:
            expected = (own - torch.arange(float(MELS))) / 2
        torch.testing.assert_close(normalized[row, :length], expected, rtol=1e-5, atol=1e-5)
        assert (normalized[row, length:] == 0).all()


def test_normaliser_statistics_are_saved_with_the_weights() -> None:
    model = tiny_model(normalizer="global")
    model.set_normalizer(torch.full((MELS,), 4.0), torch.zeros(MELS))
    assert model.state_dict()["mean"].tolist() == [4.0] * MELS
    assert (model.state_dict()["std"] > 0).all()  # a silent channel does not divide by zero
    with pytest.raises(ValueError, match="std must be"):
        model.set_normalizer(torch.zeros(MELS), torch.full((MELS,), math.nan))


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_patches_are_the_convolution(stride: int, frames: int) -> None:
    torch.manual_seed(0)
    block = ConvBlock(1, 3, 5, stride).double()
    x = torch.randn(2, frames, 5, dtype=torch.float64)
    ours = block._convolve(x.unsqueeze(-1))
    theirs = F.conv2d(x.unsqueeze(1), block.conv.weight, stride=(stride, 2), padding=1)
    torch.testing.assert_close(ours, theirs.permute(0, 2, 3, 1), rtol=0, atol=1e-12)
    assert ours.shape[1:3] == (block.output_frames(frames), block.output_mels)


def test_frames_and_frame_rate_follow_the_strides() -> None:
    model = tiny_model()
    assert [model.output_frames(n) for n in (0, 1, 4, 5, 250)] == [0, 1, 1, 2, 63]
    assert model.frame_rate_hz == 25.0


def test_first_distributions_are_close_to_uniform() -> None:
    torch.manual_seed(0)
    model = RecognizerModel(
        tiny_config(), vocabulary_size=VOCABULARY, blank=BLANK, bos=BOS, eos=EOS
    )
    out = run(model, padding=0.0, prefix=PREFIX)
    for logits in (out.ctc_logits, out.decoder_logits):
        gap = logits.log_softmax(-1) + math.log(VOCABULARY)
        assert gap.abs().max() < 0.3


def test_recurrent_weights_start_orthogonal() -> None:
    model = RecognizerModel(
        tiny_config(rnn="ligru"), vocabulary_size=VOCABULARY, blank=BLANK, bos=BOS, eos=EOS
    )
    for gate in model.decoder.hidden_gates.weight.split(7):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(7), atol=1e-5, rtol=0)
    for layer in model.encoder.rnn.layers:
        for gate in layer.recurrent.flatten(0, 1).split(6):
            torch.testing.assert_close(gate @ gate.t(), torch.eye(6), atol=1e-5, rtol=0)


def test_forget_gates_start_open() -> None:
    model = RecognizerModel(
        tiny_config(rnn="lstm", cell="lstm"), vocabulary_size=5, blank=0, bos=1, eos=2
    )
    rnn = model.encoder.rnn.layers[0].rnn
    assert (rnn.bias_ih_l0 + rnn.bias_hh_l0)[6:12].tolist() == [1.0] * 6
    assert model.decoder.token_gates.bias[7:14].tolist() == [1.0] * 7


def test_wrong_inputs_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="8 mels"):
        model.encode(torch.zeros(1, 4, 9), torch.tensor([4]))
    with pytest.raises(ValueError, match="between 1 and 4 frames"):
        model.encode(torch.zeros(2, 4, MELS), torch.tensor([4, 0]))
    with pytest.raises(ValueError, match="three different ids"):
        RecognizerModel(tiny_config(), vocabulary_size=5, blank=0, bos=1, eos=1)


def test_dropout_acts_in_training_only() -> None:
    model = tiny_model(dropout=0.5)
    model.train()
    first, second = (run(model, padding=0.0, prefix=PREFIX) for _ in range(2))
    assert not torch.equal(first.ctc_logits, second.ctc_logits)
    model.eval()
    first, second = (run(model, padding=0.0, prefix=PREFIX) for _ in range(2))
    assert torch.equal(first.decoder_logits, second.decoder_logits)
