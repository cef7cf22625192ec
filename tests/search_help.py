"""Searches over tiny trainings: their files, and trials that were never trained."""

from pathlib import Path

import tiny
import yaml

from kd_ray.cluster.search.book import Proposed, TrialBook
from kd_ray.cluster.search.space import listed_settings, read_base
from kd_ray.config.load import check
from kd_ray.config.search import SearchConfig
from kd_ray.evaluation.run_folder import write_json, write_json_lines
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.speech.manifest import read_manifest
from kd_ray.teachers.inference import InferenceJob, ShardScorer
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import load_teachers

BASE = {
    "command": "distill",
    "name": "base",
    "data": {
        "train": "data/train.parquet",
        "valid": "data/valid.parquet",
        "tokens": "data/tokens.json",
        "batches": {"batch_size": 8},
    },
    "model": tiny.MODEL,
    "teachers": {"list": "teachers.txt"},
    "training": {"epochs": 4, "optimizer": {"lr": 0.01}},
}

SPACE = {
    "teachers.strategy": {"type": "choice", "values": [{"type": "average"}, {"type": "best"}]},
    "distillation.alpha": {"type": "choice", "values": [0.3, 0.9]},
}


def write_base(root: Path, name: str = "base.yaml", **changes) -> str:
    (root / name).write_text(yaml.safe_dump({**BASE, **changes}))
    return name


def search_config(name="search", base="base.yaml", space=None, **changes) -> SearchConfig:
    content = {"command": "search", "name": name, "base": base, "space": space or SPACE}
    section = check({**content, **changes}, "test")
    assert isinstance(section, SearchConfig)
    return section


def opened(config: SearchConfig, root: Path):
    """The search's book and base, its folder made."""
    base = read_base(config, root)
    book = TrialBook(root, config.name)
    book.open(config, base)
    return book, base


def put(book, base, proposed: Proposed, errors, *, state="finished", parameters=1000, work=None):
    """A trial's folder as if it had been trained: an error for each epoch."""
    assert book.begin(proposed, base) is not None
    folder = book.path / "trials" / proposed.key
    lines = []
    for epoch, error in enumerate(errors, start=1):
        lines.append({"kind": "train", "update": epoch, "epoch": epoch, "loss": error / 10})
        lines.append({"kind": "valid", "update": epoch, "epoch": epoch, "error_rate": error,
                      "error_rate_attention": error, "best_error_rate": error})  # fmt: skip
    write_json_lines(folder / "metrics.jsonl", lines)
    if state == "finished":
        summary = {
            "name": book.run_name(proposed.key),
            "command": "distill",
            "status": "finished",
            "best_error_rate": min(errors),
            "seconds": 1.0,
            "parameters": parameters,
        }
        write_json(folder / "summary.json", summary)
    elif state == "stopped":
        book.stopped(proposed.key, len(errors), "too many errors")
    elif state == "failed":
        book.failed(proposed.key, "ValueError: no luck")
    if work is not None:
        book.cost(proposed.key, work)
    return book.trial(proposed.key) if state == "unfinished" else book.ended(proposed.key)


def grid_of(config: SearchConfig) -> list[Proposed]:
    """Every trial of a listed search, numbered as the search would."""
    settings = listed_settings(config)
    assert settings is not None
    return [
        Proposed(number, setting, seed)
        for seed in config.seeds
        for number, setting in enumerate(settings, start=1)
    ]


def make_store(root: Path) -> str:
    """What the tiny teachers say to the training split, stored without Ray."""
    tokens = root / "data" / "tokens.json"
    manifest = root / "data" / "train.parquet"
    folders = read_teacher_list("teachers.txt", root)
    infos = [teacher.info for teacher in load_teachers(folders)]
    digests = [info.digest for info in infos]
    store = TargetStore.prepare(root / "store", infos)
    rows = read_manifest(manifest)
    store.plan("train", rows, len(rows), column="phones")
    job = InferenceJob(
        store=store.folder,
        root=root,
        manifests={"train": manifest},
        tokens=tokens,
        column="phones",
        folders=dict(zip(digests, folders, strict=True)),
    )
    ShardScorer(job).run("train", 0, digests, digests)
    return "store"
