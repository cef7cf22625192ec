"""Small models of every kind, and batches for them."""

from typing import Any

import torch
from model_doubles import BLANK, BOS, EOS, MELS, VOCABULARY, batch
from pydantic import TypeAdapter
from torch import Tensor

from kd_ray.config.model import Model
from kd_ray.models.build import build_model
from kd_ray.models.encoders import Encoded
from kd_ray.models.sequence_model import SequenceModel

SOURCE_VOCABULARY = 13
LENGTHS = [13, 40, 3, 21, 30]

_TRANSFORMER = {"size": 16, "heads": 2, "feed_forward_size": 24, "layers": 2}
_QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
_FRONT_END = {"num_mels": MELS}
SECTIONS: dict[str, dict[str, Any]] = {
    "recognizer_gru": {
        "front_end": _FRONT_END,
        "encoder": {"cnn_channels": [4, 3], "rnn_size": 6, "dnn_size": 10, "dropout": 0.0},
        "decoder": {"hidden_size": 7, "location_kernel": 5, "dropout": 0.0},
    },
    "recognizer_lstm": {
        "front_end": _FRONT_END,
        "encoder": {"cnn_channels": [4, 3], "rnn_size": 6, "dnn_size": 10, "dropout": 0.0},
        "decoder": {"cell": "lstm", "hidden_size": 7, "location_kernel": 5, "dropout": 0.0},
    },
    "speech_transformer": {
        "type": "speech_to_text",
        "front_end": _FRONT_END,
        "encoder": {**_TRANSFORMER, **_QUIET, "conv_channels": 12},
        "decoder": {**_TRANSFORMER, **_QUIET},
        "ctc": True,
    },
    "berard": {
        "type": "speech_to_text",
        "front_end": _FRONT_END,
        "encoder": {
            "type": "berard",
            "input_sizes": [10, 6],
            "conv_channels": [3, 4],
            "rnn_layers": 2,
            "rnn_size": 5,
            "dropout": 0.0,
        },
        "decoder": {
            "type": "berard",
            "embedding_size": 8,
            "layers": 3,
            "hidden_size": 10,
            "attention_size": 9,
            "output_size": 8,
            "dropout": 0.0,
        },
        "share_embeddings": "decoder",
    },
    "berard_from_transformer": {
        "type": "speech_to_text",
        "front_end": _FRONT_END,
        "normalizer": {"type": "global"},
        "encoder": {**_TRANSFORMER, **_QUIET, "conv_channels": 12, "conv_kernels": [3]},
        "decoder": {
            "type": "berard",
            "layers": 1,
            "hidden_size": 10,
            "attention_size": 9,
            "output_size": 8,
            "dropout": 0.0,
        },
    },
    "text": {
        "type": "text_to_text",
        "encoder": {**_TRANSFORMER, **_QUIET, "size": 12},
        "decoder": {**_TRANSFORMER, **_QUIET},
        "share_embeddings": "decoder",
    },
}
KINDS = list(SECTIONS)


def section(kind: str) -> Model:
    return TypeAdapter(Model).validate_python(SECTIONS[kind])


def make(kind: str, seed: int = 3, *, noise: float = 0.3) -> SequenceModel:
    """In eval mode, with weights far from the symmetric start."""
    torch.manual_seed(seed)
    model = build_model(
        section(kind),
        vocabulary_size=VOCABULARY,
        blank=BLANK,
        bos=BOS,
        eos=EOS,
        source_vocabulary_size=SOURCE_VOCABULARY if kind == "text" else None,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def inputs(model: SequenceModel, *, padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features or source ids, with something in the padding, and lengths."""
    if model.reads == "speech":
        return batch(LENGTHS, padding=padding)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(SOURCE_VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = 0 if padding == 0 else -100
    return ids, torch.tensor(LENGTHS)


def encode(model: SequenceModel, *, padding: float = 0.0) -> Encoded:
    features, lengths = inputs(model, padding=padding)
    return model.encode(model.normalize(features, lengths), lengths)


def one_by_one(model: SequenceModel, encoded: Encoded, tokens: Tensor) -> Tensor:
    """Logits (R, L+1, V) of bos + tokens (R, L), token by token."""
    state = model.begin(encoded)
    begin = torch.full_like(tokens[:, :1], model.bos)
    logits = []
    for column in torch.cat([begin, tokens], dim=1).unbind(1):
        step, state = model.step(column, state)
        logits.append(step)
    return torch.stack(logits, dim=1)
