"""The configurations of published rows take their first updates, at the published model sizes.

Corpora are small trees in their real layouts, so SentencePiece models are small and updates few;
everything else is as `configs/st` says.
"""

from pathlib import Path

import corpus_trees
import pytest
import torch
from tiny_runs import run, train_lines
from yaml_files import CHECKOUT

from kd_ray.commands.prepare import prepare
from kd_ray.config.commands import DistillConfig, PrepareConfig, TrainConfig
from kd_ray.config.load import check_as, load, read_yaml
from kd_ray.config.model import TextToText
from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.models.build import build_model
from kd_ray.models.checkpoint import save_model
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

CONFIGS = CHECKOUT / "configs" / "st"
TREES = {
    "mustc_paper": (corpus_trees.must_c, 12, 12),
    "covost_paper": (corpus_trees.covost, 8, 10),
    "europarl_paper": (corpus_trees.europarl, 4, 9),
    "europarl_noisy_paper": (corpus_trees.europarl, 4, 13),
}
"""Who makes the tree, and how many German and English pieces its few words give."""
EXPERT_PARAMETERS = {"expert_in_domain": 31_500_000, "expert_wmt19": 277_000_000}
"""Without embeddings: the vocabularies are small here."""


def read(name: str, file: str, changes: dict) -> TrainConfig | DistillConfig:
    config = load(CONFIGS / name / f"{file}.yaml", {"workers.gpus": 0, **changes})
    assert isinstance(config, TrainConfig | DistillConfig)
    return config


@pytest.fixture(
    scope="module",
    params=[
        "mustc_paper",
        pytest.param("covost_paper", marks=pytest.mark.slow),
        pytest.param("europarl_paper", marks=pytest.mark.slow),
        pytest.param("europarl_noisy_paper", marks=pytest.mark.slow),
    ],
)
def prepared(request, tmp_path_factory) -> tuple[str, Path]:
    """A root with the corpus's manifests and tokens."""
    pytest.importorskip("lhotse")
    name = request.param
    root = tmp_path_factory.mktemp(name)
    make, german, english = TREES[name]
    tree = {f"corpus.{key}": value for key, value in make(root).items()}
    sizes = {"tokens.size": german, "inventories.source.size": english}
    config = load(CONFIGS / name / "corpus.yaml", {**tree, **sizes})
    assert isinstance(config, PrepareConfig)
    done = prepare(config, root)
    assert not any(done.bad_rows.values())
    return name, root


def make_expert(name: str, root: Path, size: str) -> str:
    """A random expert of this size in its place; its folder."""
    folder = f"runs/{size}/model"
    if (root / folder).exists():
        return folder
    target = Tokens.load(root / f"data/st/{name}/tokens.json")
    source = Tokens.load(root / f"data/st/{name}/tokens_source.json")
    section = check_as(TextToText, read_yaml(CONFIGS / "parts" / f"{size}.yaml"), size)
    torch.manual_seed(1)
    model = build_model(
        section,
        vocabulary_size=len(target),
        blank=target.blank,
        bos=target.bos,
        eos=target.eos,
        source_vocabulary_size=len(source),
    )
    count = sum(each.numel() for each in model.parameters())
    assert count == pytest.approx(EXPERT_PARAMETERS[size], rel=0.02)
    save_model(
        root / folder, model, tokens=target.to_dict(), extra={}, source_tokens=source.to_dict()
    )
    return folder


def imitate(name: str, root: Path, file: str, size: str) -> list[dict]:
    """Two updates, the second one mostly on rollouts."""
    expert = make_expert(name, root, size)
    run_name = f"{size}/{file}"
    changes = {
        "name": run_name,
        "teachers.list": [expert],
        "training.max_updates": 2,
        "training.init_encoder_from": None,
        "distillation.rollout.max_length": 20,
    }
    config = read(name, file, changes)
    run(config, root, source=LocalSource(load_teachers([root / expert])))
    return [line for line in train_lines(root, run_name) if line["kind"] == "train"]


@pytest.mark.slow
def test_recognisers_hand_their_encoder_to_students(prepared):
    name, root = prepared
    for file in ("recogniser", "nll"):
        run(read(name, file, {"training.max_updates": 1}), root)
    events = read_json_lines(root / "runs/st" / name / "nll" / "metrics.jsonl")
    assert [line["kind"] for line in events] == ["train", "valid"]


def test_a_student_of_published_size_learns_from_references(prepared):
    name, root = prepared
    changes = {"name": "alone", "training.max_updates": 1, "training.init_encoder_from": None}
    summary = run(read(name, "nll", changes), root)
    # Of fairseq's s2t_berard: encoder 4.8, decoder's cells 3.4, attention 0.5, output 0.2; the tiny
    # tree's vocabulary adds next to nothing (256 a token: 2.0 with 8,000 tokens).
    expected = 27.0 if name in ("mustc_paper", "covost_paper") else 8.9
    assert summary["parameters"] / 1e6 == pytest.approx(expected, rel=0.03)
    train, valid = read_json_lines(root / "runs/alone/metrics.jsonl")
    assert train["loss"] > 0
    assert "bleu" in valid


def test_it_imitates_an_in_domain_expert(prepared):
    name, root = prepared
    first, second = imitate(name, root, "imitkd_full", "expert_in_domain")
    assert (first["beta"], second["beta"]) == (1.0, pytest.approx(200**-0.5))
    assert first["kd_att"] > 0
    assert second["kd_att"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("prepared", ["mustc_paper"], indirect=True)
@pytest.mark.parametrize("file", ["imitkd_full", "imitkd_optimal"])
def test_it_learns_from_an_expert_of_published_size(prepared, file):
    name, root = prepared
    lines = imitate(name, root, file, "expert_wmt19")
    assert all(line["kd_att"] > 0 for line in lines)


@pytest.mark.slow
def test_text_students_of_published_size_imitate_their_teacher(tmp_path):
    root = tmp_path
    corpus_trees.parallel(root)
    corpus_trees.write(root / "text" / "train.de", "A B", " C ", "leer")
    corpus_trees.write(root / "text" / "train.en", "a b", "c", "d")
    files = {"source": "text/{}.de", "target": "text/{}.en"}
    changes = {
        f"corpus.{split}": {key: name.format(split) for key, name in files.items()}
        for split in ("train", "valid")
    }
    changes |= {"corpus.test": None, "tokens.size": 5, "inventories.source.size": 7}
    prepare(load(CONFIGS / "iwslt14_paper" / "corpus.yaml", changes), root)
    run(read("iwslt14_paper", "teacher", {"training.max_updates": 1}), root)
    teacher = root / "runs/st/iwslt14_paper/teacher/model"
    for file in ("imitkd", "imitkd_full"):
        config = read("iwslt14_paper", file, {"training.max_updates": 2})
        run(config, root, source=LocalSource(load_teachers([teacher])))
        lines = train_lines(root, config.name)
        assert [line["kind"] for line in lines] == ["train", "valid"] * 2
