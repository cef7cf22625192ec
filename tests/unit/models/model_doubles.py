"""Small models and batches for the tests of this room."""

from typing import Any

import torch
from torch import Tensor

from kd_ray.config.model import Recognizer
from kd_ray.models.recognizer import RecognizerModel

MELS, VOCABULARY = 8, 11
BLANK, BOS, EOS = 0, 1, 2


def tiny_config(
    *, rnn: str = "gru", cell: str = "gru", normalizer: str = "utterance", dropout: float = 0.0
) -> Recognizer:
    return Recognizer.model_validate(
        {
            "front_end": {"num_mels": MELS},
            "normalizer": {"type": normalizer},
            "encoder": {
                "cnn_channels": [4, 3],
                "time_strides": [2, 2],
                "rnn": rnn,
                "rnn_size": 6,
                "dnn_size": 10,
                "dropout": dropout,
            },
            "decoder": {
                "cell": cell,
                "embedding_size": 5,
                "hidden_size": 7,
                "attention_size": 9,
                "location_channels": 3,
                "location_kernel": 5,
                "dropout": dropout,
            },
        }
    )


def tiny_model(seed: int = 3, **settings: Any) -> RecognizerModel:
    torch.manual_seed(seed)
    model = RecognizerModel(
        tiny_config(**settings), vocabulary_size=VOCABULARY, blank=BLANK, bos=BOS, eos=EOS
    )
    with torch.no_grad():  # far from the symmetric start, so that differences can be seen
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.decoder.output.weight.normal_()
        model.ctc.weight.normal_()
    return model


def batch(lengths: list[int], *, padding: float = 0.0, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Features (B, T, MELS) with the given value in the padding, and lengths."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), max(lengths), MELS, generator=generator) * 2 + 1
    for row, length in enumerate(lengths):
        features[row, length:] = padding
    return features, torch.tensor(lengths)
