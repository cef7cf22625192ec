"""Models whose outputs are NaN write nothing, and say so."""

import math
from typing import Any

import pytest
import torch
from model_doubles import EOS
from sequence_doubles import KINDS, encode, make
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.models.decoding import NotFinite, attention_beam, attention_greedy, attention_sample
from kd_ray.models.sequence_model import SequenceModel

LIMITS = torch.tensor([4, 6, 3, 0, 8])
PREFIX = Labels.of([[7, 5], [], [9], [8], [4, EOS, 6]])


def sample(model: SequenceModel, encoded: Any, limits: Tensor) -> list[list[int]]:
    return attention_sample(model, encoded, limits, seeds=range(5))


def loaded(kind: str) -> SequenceModel:
    """As checkpoints are loaded: frozen."""
    return make(kind).requires_grad_(False)


@pytest.mark.parametrize("decode", [attention_greedy, attention_beam, sample])
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_checkpoint_is_named_as_the_likely_cause(kind: str, decode: Any) -> None:
    model = loaded(kind)
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    words = rf"{model.config.type} model .*not finite.*checkpoint is likely broken"
    with pytest.raises(NotFinite, match=words):
        decode(model, encode(model), LIMITS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("decode", [attention_greedy, attention_beam, sample])
def test_one_row_at_a_late_step_is_enough(
    decode: Any, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("text")
    step, steps = model.step, []

    def overflowing(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = step(tokens, state)
        # Nobody ends before its limit.
        logits[:, model.eos] = -50.0
        steps.append(len(tokens))
        if len(steps) == 6:
            logits[-1, 7] = value
        return logits, state

    monkeypatch.setattr(model, "step", overflowing)
    with pytest.raises(NotFinite, match="not finite"):
        decode(model, encode(model), LIMITS)


@pytest.mark.parametrize("decode", [attention_greedy, attention_beam, sample])
def test_tokens_that_a_model_masks_are_fine(decode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("text")
    step = model.step

    def masking(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = step(tokens, state)
        logits[:, [5, 6]] = -torch.inf
        return logits, state

    monkeypatch.setattr(model, "step", masking)
    assert len(decode(model, encode(model), LIMITS)) == 5


def test_what_rows_that_have_ended_go_on_to_read_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded("text")
    step = model.step

    def broken_in_row_3(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = step(tokens, state)
        logits[3] = torch.nan
        return logits, state

    monkeypatch.setattr(model, "step", broken_in_row_3)
    # Row 3 has no room at all.
    limits = torch.tensor([4, 4, 4, 0, 4])
    found = attention_greedy(model, encode(model), limits)
    assert found[3] == []


@pytest.mark.parametrize("prefix", [None, PREFIX])
@pytest.mark.parametrize("decode", [attention_greedy, attention_beam])
def test_students_in_training_and_teachers_who_score_what_they_write_are_let_through(
    decode: Any, prefix: Labels | None
) -> None:
    model = make("text") if prefix is None else loaded("text")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        encoded = encode(model)
    assert model.learns == (prefix is None)
    found = decode(model, encoded, LIMITS, prefix=prefix)
    assert len(found) == 5
    if decode is attention_beam:
        strings = [[]] * 5 if prefix is None else [[7, 5], [], [9], [8], [4]]
        assert [[each.tokens for each in row] for row in found] == [[each] for each in strings]
        assert all(math.isnan(each.score) for row in found for each in row)
