"""Greedy, sampling and beam, for every kind of model."""

from itertools import product
from typing import Any

import pytest
import torch
from model_doubles import BLANK, BOS, EOS, VOCABULARY
from sequence_doubles import KINDS, LENGTHS, encode, make
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.models.decoding import attention_beam, attention_greedy, attention_sample
from kd_ray.models.encoders import Encoded
from kd_ray.models.sequence_model import SequenceModel

LIMITS = torch.tensor([9, 12, 3, 0, 40])
PREFIX = Labels.of([[7, 5], [], [9], [8], [4, EOS, 6]])


def talkative(kind: str, seed: int = 3) -> tuple[SequenceModel, Encoded]:
    """A model whose sentences have different lengths, and one that likes what is forbidden."""
    model = make(kind, seed, noise=0.6)
    with torch.no_grad():
        return model, encode(model)


def alone(encoded: Encoded, row: int) -> Encoded:
    length = int(encoded.lengths[row])
    return Encoded(encoded.states[row : row + 1, :length], encoded.lengths[row : row + 1])


def log_probs_after(model: SequenceModel, encoded: Encoded, tokens: list[int]) -> Tensor:
    """Log-probabilities (V,) of the next token of a single row."""
    with torch.no_grad():
        logits = model.decoder_logits(
            encoded, torch.tensor([tokens], dtype=torch.int64), torch.tensor([len(tokens)])
        )
    return logits[0, len(tokens)].log_softmax(-1)


def greedy_oracle(
    model: SequenceModel, encoded: Encoded, limit: int, forced: list[int]
) -> list[int]:
    """The whole prefix anew for every token."""
    tokens: list[int] = []
    while len(tokens) < max(limit, len(forced)):
        scores = log_probs_after(model, encoded, tokens)
        scores[[BLANK, BOS]] = -torch.inf
        chosen = int(scores.argmax())
        if len(tokens) < len(forced):
            chosen = forced[len(tokens)]
        if chosen == EOS:
            break
        tokens.append(chosen)
    return tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["free", "forced"])
def test_greedy_is_an_argmax_loop_over_whole_prefixes(kind: str, prefix: Labels | None) -> None:
    model, encoded = talkative(kind)
    forced = [string.tolist() for string in (prefix or Labels.of([[]] * 5)).strings()]
    found = attention_greedy(model, encoded, LIMITS, prefix=prefix)
    for row in range(len(LENGTHS)):
        expected = greedy_oracle(model, alone(encoded, row), int(LIMITS[row]), forced[row])
        assert found[row] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_have_ended_cost_nothing_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = talkative(kind)
    rows: list[int] = []
    step = model.step

    def counted(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        rows.append(len(tokens))
        return step(tokens, state)

    monkeypatch.setattr(model, "step", counted)
    limits = torch.tensor([2, 2, 2, 2, 6])
    forced = Labels.of([[5] * int(limit) for limit in limits])
    attention_greedy(model, encoded, limits, prefix=forced)
    assert rows == [5, 5, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_of_one_is_greedy(kind: str) -> None:
    for seed, prefix in product((3, 4), (None, PREFIX)):
        model, encoded = talkative(kind, seed)
        greedy = attention_greedy(model, encoded, LIMITS, prefix=prefix)
        beam = attention_beam(model, encoded, LIMITS, beam_size=1, prefix=prefix)
        assert [[hypothesis.tokens for hypothesis in row] for row in beam] == [
            [path] for path in greedy
        ]


def every_ending(
    model: SequenceModel, encoded: Encoded, limit: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """Score and tokens of all strings up to the limit, best first."""
    found = []
    usable = [token for token in range(VOCABULARY) if token not in (BLANK, BOS, EOS)]
    for length in range(limit + 1):
        for string in product(usable, repeat=length):
            tokens = list(string)
            total = sum(
                float(log_probs_after(model, encoded, tokens[:position])[token])
                for position, token in enumerate([*tokens, EOS])
            )
            found.append((total / (length + 1) ** penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["speech_transformer", "text"])
def test_a_beam_wide_enough_finds_what_trying_all_strings_finds(kind: str, penalty: float) -> None:
    model, encoded = talkative(kind)
    limits = torch.tensor([2, 1, 2, 0, 2])
    found = attention_beam(model, encoded, limits, beam_size=80, length_penalty=penalty)
    for row in (0, 1, 3):
        expected = every_ending(model, alone(encoded, row), int(limits[row]), penalty)
        assert [hypothesis.tokens for hypothesis in found[row]] == [each for _, each in expected]
        for hypothesis, (score, _) in zip(found[row], expected, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["free", "forced"])
def test_beams_do_not_depend_on_batch_mates_and_score_what_they_say(
    kind: str, prefix: Labels | None
) -> None:
    model, encoded = talkative(kind)
    together = attention_beam(
        model, encoded, LIMITS, beam_size=4, length_penalty=0.7, prefix=prefix
    )
    for row, found in enumerate(together):
        own = alone(encoded, row)
        forced = None if prefix is None else Labels.of(prefix.strings()[row : row + 1])
        (single,) = attention_beam(
            model,
            own,
            LIMITS[row : row + 1],
            beam_size=4,
            length_penalty=0.7,
            prefix=forced,
        )
        assert [each.tokens for each in found] == [each.tokens for each in single]
        assert 1 <= len(found) <= 4
        assert len({tuple(each.tokens) for each in found}) == len(found)
        assert [each.score for each in found] == sorted(
            (each.score for each in found), reverse=True
        )
        for each in found:
            steps = [*each.tokens, EOS]
            total = sum(
                float(log_probs_after(model, own, each.tokens[:position])[token])
                for position, token in enumerate(steps)
            )
            assert each.log_probability == pytest.approx(total, abs=1e-4)
            assert each.score == pytest.approx(total / len(steps) ** 0.7, abs=1e-4)
            assert not set(each.tokens) & {BLANK, BOS, EOS}


def plain_beam(
    model: SequenceModel, encoded: Encoded, limit: int, beam: int
) -> list[tuple[float, list[int]]]:
    """The search in plain lists, one row, whole prefixes."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for position in range(limit + 1):
        continued = []
        for total, tokens in alive:
            scores = log_probs_after(model, encoded, tokens)
            for token in range(VOCABULARY):
                if token in (BLANK, BOS) or (position == limit and token != EOS):
                    continue
                continued.append((total + float(scores[token]), [*tokens, token]))
        continued.sort(key=lambda each: -each[0])
        for total, tokens in continued[:beam]:
            if tokens[-1] == EOS:
                done.append((total / (position + 1), tokens[:-1]))
        alive = [each for each in continued if each[1][-1] != EOS][:beam]
        if len(done) >= beam and alive and alive[0][0] / (position + 1) <= max(done)[0]:
            break
    return sorted(done, key=lambda each: -each[0])[:beam]


@pytest.mark.parametrize("seed", range(4))
def test_beam_is_its_procedure_in_plain_lists(seed: int) -> None:
    model, encoded = talkative("text", seed)
    found = attention_beam(model, encoded, torch.full((5,), 7), beam_size=3)
    for row in range(5):
        expected = plain_beam(model, alone(encoded, row), 7, 3)
        assert [each.tokens for each in found[row]] == [tokens for _, tokens in expected]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 3])
def test_samples_depend_on_seed_and_row_alone(kind: str, top_k: int | None) -> None:
    model, encoded = talkative(kind)
    seeds = [11, 12, 13, 14, 15]
    settings: dict[str, Any] = {"top_k": top_k, "temperature": 0.9}
    together = attention_sample(model, encoded, LIMITS, seeds=seeds, prefix=PREFIX, **settings)
    for row in range(5):
        (single,) = attention_sample(
            model,
            alone(encoded, row),
            LIMITS[row : row + 1],
            seeds=seeds[row : row + 1],
            prefix=Labels.of(PREFIX.strings()[row : row + 1]),
            **settings,
        )
        assert together[row] == single
    others = attention_sample(
        model, encoded, LIMITS, seeds=[seed + 10 for seed in seeds], prefix=PREFIX, **settings
    )
    assert others != together
    assert not {token for path in together for token in path} & {BLANK, BOS, EOS}


@pytest.mark.parametrize("top_k", [None, 3])
def test_samples_follow_the_softened_and_cut_distribution(top_k: int | None) -> None:
    model, encoded = talkative("speech_transformer")
    count = 4000
    logits = log_probs_after(model, alone(encoded, 0), []) / 1.5
    logits[[BLANK, BOS]] = -torch.inf
    if top_k is not None:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    expected = logits.softmax(0)
    samples = attention_sample(
        model,
        encoded.select(torch.zeros(count, dtype=torch.int64)),
        torch.ones(count, dtype=torch.int64),
        seeds=range(count),
        top_k=top_k,
        temperature=1.5,
    )
    first = torch.tensor([path[0] if path else EOS for path in samples])
    shares = torch.bincount(first, minlength=VOCABULARY) / count
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((shares - expected).abs() <= 4 * deviation).all()
    assert (shares[expected == 0] == 0).all()


def test_drawing_among_one_is_greedy() -> None:
    model, encoded = talkative("text")
    drawn = attention_sample(model, encoded, LIMITS, seeds=range(5), top_k=1)
    assert drawn == attention_greedy(model, encoded, LIMITS)


@pytest.mark.parametrize("decode", [attention_greedy, attention_beam])
def test_no_rows_and_no_room_are_fine(decode: Any) -> None:
    model, encoded = talkative("text")
    nobody = torch.zeros(0, dtype=torch.int64)
    assert decode(model, encoded.select(nobody), nobody) == []
    assert len(decode(model, encoded, torch.zeros(5, dtype=torch.int64))) == 5


def test_wrong_requests_are_named() -> None:
    model, encoded = talkative("text")
    with pytest.raises(ValueError, match="need as many seeds, got 2"):
        attention_sample(model, encoded, LIMITS, seeds=[1, 2])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        attention_sample(model, encoded, LIMITS, seeds=range(5), temperature=0)
    with pytest.raises(ValueError, match="beam_size must be at least 1"):
        attention_beam(model, encoded, LIMITS, beam_size=0)
    with pytest.raises(ValueError, match="as many forced prefixes, got 1"):
        attention_greedy(model, encoded, LIMITS, prefix=Labels.of([[3]]))
    with pytest.raises(ValueError, match=r"row 1: ids must be below the vocabulary size 11"):
        attention_greedy(model, encoded, LIMITS, prefix=Labels.of([[3], [11], [3], [3], [3]]))
