"""Validation and `kd-ray evaluate` count the same units: one number for one model."""

import random
from dataclasses import replace

import pytest
import tiny
import torch

from kd_ray.evaluation.decode import Search
from kd_ray.evaluation.score import score_split, split_scores
from kd_ray.evaluation.system import load_system
from kd_ray.models.checkpoint import save_model
from kd_ray.speech.manifest import read_manifest, write_manifest
from kd_ray.speech.pieces import UNKNOWN
from kd_ray.speech.tokens import SPECIALS, Tokens
from kd_ray.students.collective import Alone
from kd_ray.students.materials import Inventories, build_data, new_model
from kd_ray.students.validation import Validation

WORDS = ("der", "große", "Hund", "hört", "zwei", "Bücher", "nichts", "heute", "morgen", "früh")


def sentences():
    generator = random.Random(1)
    return [" ".join(generator.choices(WORDS, k=count)) for count in (2, 3, 3, 4, 2, 5)]


def inventory(unit):
    texts = sentences()
    if unit == "imported":
        # As a fairseq dictionary is imported: half of the words of the texts are `<unk>`.
        return Tokens("words", (*SPECIALS, UNKNOWN, *sorted(WORDS)[:5]))
    return Tokens.train(texts, unit, 24 if unit == "sentencepiece" else None)


class Halves:
    """One worker of two: the other one's counts are those of an earlier run."""

    world = 2

    def __init__(self, rank, seen):
        self.rank = rank
        self.seen = seen

    def sum(self, values):
        self.seen.append(values)
        return [sum(each) for each in zip(*self.seen, strict=True)]


@pytest.mark.parametrize("unit", ["sentencepiece", "words", "characters", "phones", "imported"])
def test_both_count_the_same_errors(tmp_path, unit):
    tiny.make_corpus(tmp_path)
    tokens = inventory(unit)
    tokens.save(tmp_path / "data" / "tokens.json")
    manifest = tmp_path / "data" / "valid.parquet"
    rows = [
        replace(row, phones=None, transcript=text)
        for row, text in zip(read_manifest(manifest), sentences(), strict=True)
    ]
    for name in ("train", "valid"):
        write_manifest(tmp_path / "data" / f"{name}.parquet", rows)
    # Frames for every label of CTC: the tones are short, and characters many.
    config = tiny.train_config(
        unit, data__column="transcript", model__front_end__frame_shift_ms=2.0
    )
    inventories = Inventories.load(config, tmp_path)
    valid = build_data(config, tmp_path, inventories)["valid"]
    torch.manual_seed(3)
    model = new_model(config, inventories).eval()
    for parameter in model.parameters():
        # Far from uniform: it must write something.
        parameter.data.mul_(3.0)
    save_model(tmp_path / "model", model, tokens=tokens.to_dict(), extra={})
    result = score_split(
        load_system(tmp_path / "model"), rows, root=tmp_path, column="transcript", batch_size=4,
        search=Search(("attention", "ctc")),
    )  # fmt: skip
    evaluated = {
        f"error_rate_{head}": score["error_rate"] for head, score in split_scores(result).items()
    }
    assert any(line["attention"] for line in result.rows)

    validation = Validation(valid, 4, torch.device("cpu"), "ctc")
    scores = validation.run(model, Alone())
    assert scores == {"error_rate": evaluated["error_rate_ctc"], **evaluated}
    seen = []
    assert [validation.run(model, Halves(rank, seen)) for rank in range(2)][-1] == scores
