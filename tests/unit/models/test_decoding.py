from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_doubles import BLANK, BOS, EOS, batch, tiny_model

from kd_ray.models.decoding import attention_greedy, ctc_collapse, ctc_greedy
from kd_ray.models.encoders import Encoded
from kd_ray.models.recognizer import RecognizerModel

LENGTHS = [13, 40, 1, 21, 30]
LIMITS = torch.tensor([9, 12, 3, 0, 12])


def talkative(seed: int = 3, *, cell: str = "gru") -> tuple[RecognizerModel, Encoded]:
    model = tiny_model(seed, cell=cell).eval()
    with torch.no_grad():
        model.decoder.output.bias[EOS] = 2.0
        model.decoder.output.bias[[BLANK, BOS]] = 5.0  # which decoding must not follow
        features, lengths = batch(LENGTHS)
        return model, model.encode(model.normalize(features, lengths), lengths)


def test_collapse_merges_repeats_then_drops_blanks() -> None:
    assert ctc_collapse([0, 3, 3, 0, 3, 4, 4, 0, 0], blank=0) == [3, 3, 4]
    assert ctc_collapse([], blank=0) == []
    assert ctc_collapse([0, 0], blank=0) == []


@given(st.lists(st.integers(0, 3)), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_collapse_is_group_by(path: list[int], blank: int) -> None:
    assert ctc_collapse(path, blank) == [token for token, _ in groupby(path) if token != blank]


def test_ctc_greedy_reads_own_frames_only() -> None:
    logits = torch.full((2, 4, 5), -1.0)
    for row, path in enumerate([[3, 3, 0, 3], [4, 1, 2, 2]]):
        logits[row, range(4), path] = 1.0
    logits[1, 2:] = torch.nan
    assert ctc_greedy(logits, torch.tensor([4, 2]), blank=0) == [[3, 3], [4, 1]]
    assert ctc_greedy(logits[:, :0], torch.tensor([0, 0]), blank=0) == [[], []]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_greedy_rows_do_not_depend_on_their_batch_mates(cell: str) -> None:
    model, encoded = talkative(cell=cell)
    together = attention_greedy(model, encoded, LIMITS)
    for row in range(len(LENGTHS)):
        length = int(encoded.lengths[row])
        alone = Encoded(encoded.states[row : row + 1, :length], encoded.lengths[row : row + 1])
        assert attention_greedy(model, alone, LIMITS[row : row + 1]) == [together[row]]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_output_is_its_own_teacher_forced_argmax(seed: int) -> None:
    model, encoded = talkative(seed)
    outputs = attention_greedy(model, encoded, LIMITS)
    prefix = torch.zeros(len(outputs), int(LIMITS.max()), dtype=torch.int64)
    lengths = torch.tensor([len(output) for output in outputs])
    for row, output in enumerate(outputs):
        prefix[row, : len(output)] = torch.tensor(output, dtype=torch.int64)
    with torch.no_grad():
        logits = model.decoder_logits(encoded, prefix, lengths)
    logits[..., [BLANK, BOS]] = -torch.inf
    best = logits.argmax(-1)
    for row, output in enumerate(outputs):
        assert best[row, : len(output)].tolist() == output
        if len(output) < LIMITS[row]:
            assert best[row, len(output)] == EOS
    emitted = {token for output in outputs for token in output}
    assert not emitted & {BLANK, BOS, EOS}
    assert all(len(output) <= limit for output, limit in zip(outputs, LIMITS.tolist(), strict=True))


def test_decoding_stops_when_all_rows_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = talkative()
    with torch.no_grad():
        model.decoder.output.bias[EOS] = 1000.0
    steps = []
    step = model.decoder.step
    monkeypatch.setattr(model.decoder, "step", lambda *a: steps.append(0) or step(*a))
    assert attention_greedy(model, encoded, torch.full((5,), 1000)) == [[]] * 5
    assert len(steps) == 1
    assert attention_greedy(model, encoded, torch.zeros(5, dtype=torch.int64)) == [[]] * 5
