"""`kd-ray evaluate`: error rates, sizes and speed of systems, with every hypothesis."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from kd_ray.config.commands import EvaluateConfig
from kd_ray.evaluation.run_folder import RunFolder, write_json, write_json_lines
from kd_ray.evaluation.score import real_time_factor, score_split, size_on_disk, split_scores
from kd_ray.evaluation.system import (
    System,
    UnusableSystem,
    load_system,
    read_teacher_list,
    resolve_checkpoint,
    system_name,
)
from kd_ray.speech.manifest import manifest_digest, read_manifest
from kd_ray.speech.tokens import Tokens

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, root: Path) -> dict[str, Any]:
    """Score every system on every split; returns (and writes) results.json of the run folder.

    A system that was scored before from the same weights and manifests is not decoded again.
    """
    torch.set_num_threads(config.threads)
    run = RunFolder(root, config.name)
    for part in ("hypotheses", "systems"):
        (run.path / part).mkdir(parents=True, exist_ok=True)
    run.open(config)
    tokens = Tokens.load(root / config.tokens)
    results: dict[str, Any] = {
        "decoding": config.decoding,
        "unit": tokens.unit,
        "splits": _splits(config, root),
        "systems": [],
    }
    for kind, label, folder in _systems(config, root):
        results["systems"].append(_score(config, root, run, tokens, kind, label, folder))
    write_json(run.path / "results.json", results)
    run.write_summary({"name": config.name, "command": "evaluate", "status": "finished"})
    return results


def _systems(config: EvaluateConfig, root: Path) -> list[tuple[str, str, Path]]:
    found: list[tuple[str, str, Path]] = []
    if config.systems.teachers:
        folders = read_teacher_list(config.systems.teachers, root)
        found += [("teacher", system_name(folder), folder) for folder in folders]
    for label, place in config.systems.students.items():
        found.append(("student", label, resolve_checkpoint(root / place)))
    labels = [label for _, label, _ in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UnusableSystem(f"systems: the labels {', '.join(twice)} are used twice")
    return found


def _splits(config: EvaluateConfig, root: Path) -> dict[str, dict[str, Any]]:
    splits = {}
    for name, manifest in config.splits.items():
        rows = read_manifest(root / manifest)
        splits[name] = {
            "manifest": manifest,
            "digest": manifest_digest(rows),
            "utterances": len(rows),
        }
    return splits


def _score(
    config: EvaluateConfig,
    root: Path,
    run: RunFolder,
    tokens: Tokens,
    kind: str,
    label: str,
    folder: Path,
) -> dict[str, Any]:
    system = load_system(folder)
    if system.tokens.digest != tokens.digest:
        raise UnusableSystem(
            f"{label} ({folder}) writes other tokens ({system.tokens.digest}) than {config.tokens} "
            f"({tokens.digest}): their error rates cannot be compared; evaluate it apart, with "
            f"tokens: {folder / 'tokens.json'}"
        )
    identity = {
        "digest": system.digest,
        "splits": {name: manifest_digest(root / path) for name, path in config.splits.items()},
        "column": config.column,
        "speed_utterances": config.speed_utterances,
    }
    key = hashlib.sha256(json.dumps([label, identity], sort_keys=True).encode()).hexdigest()[:16]
    cached = run.path / "systems" / f"{key}.json"
    written = [_hypotheses_path(run, name, label) for name in config.splits]
    if cached.exists() and all(path.exists() for path in written):
        row: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
        return row
    row = {
        "label": label,
        "kind": kind,
        "folder": str(folder.relative_to(root) if folder.is_relative_to(root) else folder),
        "parameters": system.parameters,
        "bytes": size_on_disk(folder),
        "strategy": _strategy(folder),
        "scores": {},
    }
    for name, manifest in config.splits.items():
        row["scores"][name] = _score_split(config, root, run, system, label, name, manifest)
    row["real_time_factor"] = _speed(config, root, system)
    shown = row["scores"][list(config.splits)[-1]][config.decoding]["error_rate"]
    logger.info("%-24s %s error %6.2f %%", label, list(config.splits)[-1], shown)
    write_json(cached, row)
    return row


def _score_split(
    config: EvaluateConfig,
    root: Path,
    run: RunFolder,
    system: System,
    label: str,
    name: str,
    manifest: str,
) -> dict[str, Any]:
    result = score_split(
        system,
        read_manifest(root / manifest),
        root=root,
        column=config.column,
        batch_size=config.batch_size,
    )
    write_json_lines(_hypotheses_path(run, name, label), result.rows)
    return split_scores(result)


def _hypotheses_path(run: RunFolder, split: str, label: str) -> Path:
    return run.path / "hypotheses" / split / f"{label.replace('/', '-')}.jsonl"


def _speed(config: EvaluateConfig, root: Path, system: System) -> float | None:
    if not config.speed_utterances:
        return None
    manifest = list(config.splits.values())[-1]
    rows = read_manifest(root / manifest)[: config.speed_utterances]
    return real_time_factor(system, rows, root)


def _strategy(folder: Path) -> str | None:
    """The strategy that a student was distilled with, from its run folder; None: undistilled."""
    path = folder.parent / "config.json"
    if folder.name != "model" or not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    strategy: str | None = content.get("teachers", {}).get("strategy", {}).get("type")
    return strategy
