"""What every kind of model promises."""

import math
from typing import Any

import pytest
import torch
from model_doubles import BLANK, BOS, EOS, VOCABULARY
from pydantic import TypeAdapter, ValidationError
from sequence_doubles import KINDS, LENGTHS, SECTIONS, encode, inputs, make, one_by_one, section
from torch import Tensor

from kd_ray.config.model import Model, Recognizer
from kd_ray.models.build import build_model
from kd_ray.models.encoders import Encoded

PREFIX = torch.tensor(
    [[3, 4, 5, 6, 7], [7, 8, 3, 3, 9], [9, 1, 1, 1, 1], [4, 4, 9, 9, 3], [8, 7, 6, 5, 4]]
)
PREFIX_LENGTHS = torch.tensor([5, 2, 0, 3, 4])


def own_positions(logits: Tensor) -> Tensor:
    return logits[torch.arange(logits.shape[1]) <= PREFIX_LENGTHS.unsqueeze(1)]


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_is_the_whole_prefix_at_once(kind: str) -> None:
    model = make(kind)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, VOCABULARY, (len(LENGTHS), 70), generator=generator)  # caches grow
    with torch.no_grad():
        encoded = encode(model)
        whole = model.decoder_logits(encoded, tokens, torch.full((len(LENGTHS),), 70))
        steps = one_by_one(model, encoded, tokens)
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-5)
    assert whole.std() > 0.1


@pytest.mark.parametrize(
    "rows",
    [[3, 1], [0, 0, 2, 2, 4, 4], [2, 0, 1, 1, 1], [4, 3, 2, 1, 0], [1, 0, 1]],
    ids=["drop", "repeat", "uneven", "reverse", "again"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_selected_rows_go_on_as_if_they_had_always_stood_there(kind: str, rows: list[int]) -> None:
    model, chosen = make(kind), torch.tensor(rows)
    with torch.no_grad():
        encoded = encode(model)
        state = model.begin(encoded)
        for tokens in (torch.full((5,), BOS), PREFIX[:, 0], PREFIX[:, 1]):
            _, state = model.step(tokens, state)
        state = model.select(state, chosen)
        ours, state = model.step(PREFIX[chosen, 2], state)
        reordered = torch.arange(len(rows)).roll(1)
        again, _ = model.step(PREFIX[chosen, 3][reordered], model.select(state, reordered))
        whole = model.decoder_logits(
            encoded.select(chosen), PREFIX[chosen, :4], torch.full((len(rows),), 4)
        )
    torch.testing.assert_close(ours, whole[:, 3], rtol=0, atol=1e-5)
    torch.testing.assert_close(again, whole[reordered, 4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_gives_what_it_gives_in_a_batch(kind: str) -> None:
    model = make(kind)
    with torch.no_grad():
        together = encode(model, padding=math.nan)
        logits = model.decoder_logits(together, PREFIX, PREFIX_LENGTHS)
        for row, length in enumerate(LENGTHS):
            features, lengths = inputs(model)
            own, count = features[row : row + 1, :length], lengths[row : row + 1]
            alone = model.encode(model.normalize(own, count), count)
            positions = int(PREFIX_LENGTHS[row])
            single = model.decoder_logits(
                alone, PREFIX[row : row + 1, :positions], PREFIX_LENGTHS[row : row + 1]
            )
            states = int(together.lengths[row])
            assert states == model.output_frames(length) == alone.states.shape[1]
            torch.testing.assert_close(
                together.states[row, :states], alone.states[0], rtol=0, atol=1e-5
            )
            assert (together.states[row, states:] == 0).all()
            torch.testing.assert_close(logits[row, : positions + 1], single[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_padding_reaches_neither_outputs_nor_gradients(kind: str) -> None:
    def results(padding: float, prefix: Tensor) -> list[Tensor]:
        model = make(kind)
        logits = own_positions(
            model.decoder_logits(encode(model, padding=padding), prefix, PREFIX_LENGTHS)
        )
        parameters = [each for name, each in model.named_parameters() if "ctc" not in name]
        return [logits, *torch.autograd.grad(logits.square().mean(), parameters)]

    garbled = PREFIX.clone()
    garbled[torch.arange(5) >= PREFIX_LENGTHS.unsqueeze(1)] = -100
    clean, dirty = results(0.0, PREFIX), results(math.nan, garbled)
    assert all(bool(torch.isfinite(value).all()) for value in dirty)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    model = make(kind)
    encoded = encode(model)
    logits = own_positions(model.decoder_logits(encoded, PREFIX, PREFIX_LENGTHS))
    loss = logits.logsumexp(-1).mean()
    if model.has_ctc:
        loss = loss + model.ctc_logits(encoded).logsumexp(-1).mean()
    loss.backward()
    silent = [
        name
        for name, value in model.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert silent == []


@pytest.mark.parametrize("kind", ["speech_transformer", "berard", "text"])
def test_dropout_acts_in_training_only(kind: str) -> None:
    content = {
        part: {**value, "dropout": 0.5} if part in ("encoder", "decoder") else value
        for part, value in SECTIONS[kind].items()
    }
    model = build_model(
        TypeAdapter(Model).validate_python(content),
        vocabulary_size=VOCABULARY,
        blank=BLANK,
        bos=BOS,
        eos=EOS,
        source_vocabulary_size=13 if kind == "text" else None,
    )

    def run() -> Tensor:
        return own_positions(model.decoder_logits(encode(model), PREFIX, PREFIX_LENGTHS))

    assert not torch.equal(model.train() and run(), run())
    assert torch.equal(model.eval() and run(), run())


def test_encoded_utterances_can_be_dropped_repeated_and_reordered() -> None:
    encoded = Encoded(torch.arange(6.0).view(3, 2, 1), torch.tensor([2, 1, 2]))
    chosen = encoded.select(torch.tensor([2, 0, 2]))
    assert chosen.states.squeeze(2).tolist() == [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]
    assert chosen.lengths.tolist() == [2, 2, 2]


def test_models_say_what_they_read() -> None:
    models = {kind: make(kind) for kind in KINDS}
    assert {kind: model.reads for kind, model in models.items() if model.reads == "text"} == {
        "text": "text"
    }
    assert {kind: model.frame_rate_hz for kind, model in models.items()} == {
        "recognizer_gru": 25.0,
        "recognizer_lstm": 25.0,
        "speech_transformer": 25.0,
        "berard": 25.0,
        "berard_from_transformer": 50.0,
        "text": None,
    }
    assert [kind for kind, model in models.items() if model.has_ctc] == [
        "recognizer_gru",
        "recognizer_lstm",
        "speech_transformer",
    ]
    for kind in ("berard", "text"):
        with pytest.raises(ValueError, match="has no CTC head"):
            models[kind].ctc_logits(encode(models[kind]))


def test_a_section_without_type_is_a_recogniser() -> None:
    assert type(TypeAdapter(Model).validate_python({})) is Recognizer
    assert section("speech_transformer").type == "speech_to_text"
    with pytest.raises(ValidationError, match="text_to_text"):
        TypeAdapter(Model).validate_python({"type": "transducer"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"encoder": {"size": 16, "heads": 3}}, "heads must divide size: got 3"),
        ({"encoder": {"conv_kernels": [4]}}, "conv_kernels must be odd"),
        (
            {"decoder": {"type": "berard", "output_size": 64}, "share_embeddings": "decoder"},
            "got 128 and 64",
        ),
        (
            {"type": "text_to_text", "encoder": {"size": 64}, "share_embeddings": "all"},
            "got 64 and 128",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Model).validate_python({"type": "speech_to_text", **content})


def test_wrong_builds_and_inputs_are_named() -> None:
    ids = {"vocabulary_size": VOCABULARY, "blank": BLANK, "bos": BOS, "eos": EOS}
    with pytest.raises(ValueError, match="needs source_vocabulary_size"):
        build_model(section("text"), **ids)
    with pytest.raises(ValueError, match="reads speech and has no source tokens"):
        build_model(section("berard"), **ids, source_vocabulary_size=5)
    joint = TypeAdapter(Model).validate_python({"type": "text_to_text", "share_embeddings": "all"})
    with pytest.raises(ValueError, match="source has 5 tokens and the target 11"):
        build_model(joint, **ids, source_vocabulary_size=5)
    text, speech = make("text"), make("speech_transformer")
    with pytest.raises(ValueError, match="source ids must be below the source vocabulary size 13"):
        text.encode(torch.tensor([[3, 13]]), torch.tensor([2]))
    with pytest.raises(ValueError, match="between 1 and 2 source tokens"):
        text.encode(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="must be ids"):
        text.encode(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match="8 mels"):
        speech.encode(torch.zeros(1, 4, 9), torch.tensor([4]))


def test_shared_embeddings_are_one_matrix() -> None:
    ids = {"vocabulary_size": VOCABULARY, "blank": BLANK, "bos": BOS, "eos": EOS}

    def sizes(share: str) -> int:
        content = {"type": "text_to_text", "share_embeddings": share}
        model = build_model(
            TypeAdapter(Model).validate_python(content), **ids, source_vocabulary_size=VOCABULARY
        )
        return sum(value.numel() for value in model.parameters())

    matrix = VOCABULARY * 128
    assert sizes("none") - sizes("decoder") == matrix
    assert sizes("decoder") - sizes("all") == matrix


def test_the_small_published_speech_transformer_has_its_published_size() -> None:
    """fairseq's s2t_transformer_s, counted by hand: 29.5 million with 5,000 tokens, not tied."""
    sizes = {"size": 256, "heads": 4, "feed_forward_size": 2048}
    content = {
        "type": "speech_to_text",
        "encoder": {**sizes, "layers": 12, "conv_channels": 1024},
        "decoder": {**sizes, "layers": 6},
    }
    with torch.device("meta"):
        model = build_model(
            TypeAdapter(Model).validate_python(content),
            vocabulary_size=5000,
            blank=BLANK,
            bos=BOS,
            eos=EOS,
        )
    count = sum(value.numel() for value in model.parameters())
    convolutions = (80 * 5 + 1) * 1024 + (512 * 5 + 1) * 512
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 2048 + 2048 + 256 + 2 * 512
    decoder = layer + 4 * (256 * 256 + 256) + 512
    assert count == convolutions + 12 * layer + 6 * decoder + 2 * 512 + 2 * 5000 * 256
