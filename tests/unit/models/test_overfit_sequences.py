"""Tiny translators learn a handful of random pairs by heart, in seconds."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_doubles import BLANK, BOS, EOS, MELS, VOCABULARY
from pydantic import TypeAdapter

from kd_ray.config.model import Model
from kd_ray.models.build import build_model
from kd_ray.models.decoding import attention_beam, attention_greedy, ctc_greedy

_QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
_SMALL = {"size": 32, "heads": 2, "feed_forward_size": 64, "layers": 1, **_QUIET}
_BERARD = {"dropout": 0.0, "type": "berard"}
CASES: dict[str, dict[str, Any]] = {
    "speech": {
        "type": "speech_to_text",
        "front_end": {"num_mels": MELS},
        "encoder": {**_SMALL, "conv_channels": 32},
        "decoder": _SMALL,
        "ctc": True,
    },
    "berard": {
        "type": "speech_to_text",
        "front_end": {"num_mels": MELS},
        "encoder": {**_BERARD, "input_sizes": [32, 16], "rnn_layers": 1, "rnn_size": 24},
        "decoder": {**_BERARD, "hidden_size": 48, "attention_size": 32, "output_size": 32},
    },
    "text": {
        "type": "text_to_text",
        "encoder": _SMALL,
        "decoder": _SMALL,
        "share_embeddings": "all",
    },
}


@pytest.mark.parametrize("kind", list(CASES))
def test_four_random_pairs_can_be_learned_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    model = build_model(
        TypeAdapter(Model).validate_python(CASES[kind]),
        vocabulary_size=VOCABULARY,
        blank=BLANK,
        bos=BOS,
        eos=EOS,
        source_vocabulary_size=VOCABULARY if kind == "text" else None,
    )
    lengths = torch.tensor([40, 28, 32, 36])
    inputs = torch.randn(4, 40, MELS)
    if kind == "text":
        lengths, inputs = torch.tensor([6, 3, 4, 5]), torch.randint(3, VOCABULARY, (4, 6))
    labels, label_lengths = torch.randint(3, VOCABULARY, (4, 5)), torch.tensor([5, 3, 4, 5])
    ends = torch.cat([labels, torch.zeros(4, 1, dtype=torch.int64)], dim=1)
    ends[torch.arange(4), label_lengths] = EOS
    ends[torch.arange(6) > label_lengths.unsqueeze(1)] = -100
    references = [
        row[:length].tolist() for row, length in zip(labels, label_lengths.tolist(), strict=True)
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        encoded = model.encode(model.normalize(inputs, lengths), lengths)
        logits = model.decoder_logits(encoded, labels, label_lengths)
        loss = F.cross_entropy(logits.flatten(0, 1), ends.flatten())
        if model.has_ctc:
            log_probs = model.ctc_logits(encoded).log_softmax(-1).transpose(0, 1)
            loss = loss + F.ctc_loss(log_probs, labels, encoded.lengths, label_lengths)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    model.eval()
    encoded = model.encode(model.normalize(inputs, lengths), lengths)
    limits = torch.full((4,), 10)
    assert attention_greedy(model, encoded, limits) == references
    assert [row[0].tokens for row in attention_beam(model, encoded, limits)] == references
    if model.has_ctc:
        assert ctc_greedy(model.ctc_logits(encoded), encoded.lengths, BLANK) == references
