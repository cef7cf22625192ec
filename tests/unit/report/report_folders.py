"""Made-up but realistic run and evaluation folders."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

_SYMBOLS = "aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow p r s sh t"
PHONES = _SYMBOLS.split()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _corrupt(
    reference: list[str], rate: float, draw: np.random.Generator
) -> tuple[list[str], dict[str, int]]:
    """A hypothesis at about an error rate, with the operations of its best alignment."""
    from rapidfuzz.distance import Levenshtein

    hypothesis: list[str] = []
    for phone in reference:
        kind = draw.random()
        if kind < 0.6 * rate:
            hypothesis.append(str(draw.choice(PHONES)))
        elif kind < 0.85 * rate:
            continue
        else:
            hypothesis.append(phone)
            if draw.random() < 0.15 * rate:
                hypothesis.append(str(draw.choice(PHONES)))
    counts = {"replace": 0, "insert": 0, "delete": 0}
    for operation in Levenshtein.editops(reference, hypothesis):
        counts[operation.tag] += 1
    return hypothesis, counts


def write_evaluation(
    folder: Path,
    *,
    teachers: int = 5,
    students: tuple[tuple[str, str | None, float], ...] = (
        ("undistilled", None, 0.30),
        ("average", "average", 0.27),
        ("best", "best", 0.265),
        ("weighted", "weighted", 0.255),
    ),
    utterances: int = 40,
    seed: int = 1,
    splits: tuple[str, ...] = ("valid", "test"),
    hypotheses: bool = True,
) -> Path:
    """An evaluation folder whose counts agree with its hypotheses."""
    draw = np.random.default_rng(seed)
    everyone: list[dict[str, Any]] = []
    rates = {}
    for index in range(teachers):
        label = f"teacher-{index + 1:02d}"
        rates[label] = 0.20 + 0.08 * float(draw.random())
        everyone.append(
            {
                "label": label,
                "kind": "teacher",
                "folder": f"runs/demo/teachers/{label}/model",
                "parameters": int(draw.integers(900_000, 2_600_000)),
                "bytes": int(draw.integers(4_000_000, 10_000_000)),
                "real_time_factor": float(draw.uniform(0.02, 0.06)),
                "strategy": None,
            }
        )
    for label, strategy, rate in students:
        rates[label] = rate
        everyone.append(
            {
                "label": label,
                "kind": "student",
                "folder": f"runs/demo/{label}/model",
                "parameters": 412_345,
                "bytes": 1_702_112,
                "real_time_factor": float(0.012 + 0.0006 * draw.random()),
                "strategy": strategy,
            }
        )
    described: dict[str, Any] = {}
    for system in everyone:
        system["scores"] = {}
    for split in splits:
        references = [
            [str(p) for p in draw.choice(PHONES, int(draw.integers(8, 40)))]
            for _ in range(utterances)
        ]
        hardness = draw.uniform(0.4, 1.6, utterances)
        units = sum(map(len, references))
        described[split] = {
            "manifest": f"data/demo/{split}.parquet",
            "utterances": utterances,
            "digest": "0123456789abcdef",
        }
        for system in everyone:
            rows = []
            scores = {}
            totals = {d: {"replace": 0, "insert": 0, "delete": 0} for d in ("attention", "ctc")}
            wrong = {"attention": 0, "ctc": 0}
            for place, reference in enumerate(references):
                row: dict[str, Any] = {
                    "id": f"{split}-{place:04d}",
                    "reference": " ".join(reference),
                }
                for decoding, factor in (("attention", 1.0), ("ctc", 1.1)):
                    rate = min(0.9, rates[system["label"]] * factor * float(hardness[place]))
                    hypothesis, counts = _corrupt(reference, rate, draw)
                    row[decoding] = " ".join(hypothesis)
                    row[f"{decoding}_errors"] = sum(counts.values())
                    wrong[decoding] += bool(sum(counts.values()))
                    for key, value in counts.items():
                        totals[decoding][key] += value
                rows.append(row)
            for decoding, counts in totals.items():
                scores[decoding] = {
                    "error_rate": 100 * sum(counts.values()) / units,
                    "substitutions": counts["replace"],
                    "insertions": counts["insert"],
                    "deletions": counts["delete"],
                    "reference_length": units,
                    "sentences": utterances,
                    "sentence_error_rate": 100 * wrong[decoding] / utterances,
                }
            system["scores"][split] = scores
            if hypotheses:
                write_lines(folder / "hypotheses" / split / f"{system['label']}.jsonl", rows)
    write_json(
        folder / "results.json",
        {"splits": described, "decoding": "attention", "unit": "phones", "systems": everyone},
    )
    write_json(folder / "config.json", {"command": "evaluate", "name": "demo/evaluation"})
    write_json(folder / "environment.json", environment())
    return folder


def environment(commit: str = "3f1c2ab9") -> dict[str, Any]:
    return {
        "python": "3.11.9",
        "packages": {"kd-ray": "0.1.0", "ray": "2.60.0", "torch": "2.14.1", "pydantic": None},
        "commit": commit,
        "command": ["kd-ray", "recipe", "configs/demo/recipe.yaml"],
        "cpus": 2,
        "processor": "Some Processor @ 2.4 GHz",
        "platform": "Linux-6.1-x86_64",
        "gpus": [],
        "date": "2026-01-01 12:00:00 +0000",
    }


def write_run(
    folder: Path,
    name: str,
    *,
    command: str = "distill",
    strategy: str | None = "weighted",
    epochs: int = 12,
    updates: int = 10,
    final_error: float = 26.0,
    events: list[dict[str, Any]] | None = None,
    ties: float = 0.31,
    finished: bool = True,
    seed: int = 1,
    overrides: dict[str, Any] | None = None,
) -> Path:
    """A training run's folder."""
    draw = np.random.default_rng(seed)
    config: dict[str, Any] = {
        "command": command,
        "name": name,
        "data": {"train": "data/demo/train.parquet", "batches": {"batch_size": 16}},
        "model": {"encoder": {"rnn_size": 64, "rnn_layers": 1, "dropout": 0.15}},
        "training": {"seed": seed, "epochs": epochs, "optimizer": {"lr": 2e-3}},
        **(overrides or {}),
    }
    if strategy:
        config["teachers"] = {"list": "runs/demo/teachers.txt", "strategy": {"type": strategy}}
        config["distillation"] = {"alpha": 0.7, "temperature": 2.0}
    rows: list[dict[str, Any]] = []
    update = 0
    for epoch in range(1, epochs + 1):
        for _ in range(updates):
            update += 1
            rows.append(
                {
                    "kind": "train",
                    "update": update,
                    "epoch": epoch,
                    "loss": 0.9 + 3 * math.exp(-update / 40) + 0.1 * float(draw.normal()),
                    "kd_ctc": 1.0,
                    "kd_att": 1.1 if strategy else None,
                    "sup_ctc": 1.2,
                    "sup_att": 1.3,
                    "lr": 2e-3,
                    "grad_norm": 1.0,
                    "utterances": 16,
                    "data_s": 0.03 + 0.005 * float(draw.random()),
                    "teacher_wait_s": (0.09 if strategy else 0.0),
                    "student_s": 0.31 + 0.02 * float(draw.random()),
                }
            )
        shape = math.exp(-epoch / (epochs / 4))
        rows.append(
            {
                "kind": "valid",
                "update": update,
                "epoch": epoch,
                "loss": 1.0 + shape,
                "error_rate_attention": final_error + 70 * shape + 0.6 * float(draw.normal()),
                "error_rate_ctc": final_error + 3 + 65 * shape,
            }
        )
    write_json(folder / "config.json", config)
    write_json(folder / "environment.json", environment())
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "events.jsonl", events or [])
    if finished:
        summary: dict[str, Any] = {
            "name": name,
            "command": command,
            "status": "finished",
            "best_error_rate": min(r["error_rate_attention"] for r in rows if r["kind"] == "valid"),
            "best_epoch": epochs,
            "updates": update,
            "seconds": 95.4,
            "parameters": 412_345,
        }
        if strategy:
            summary["ties"] = {
                "share_of_ties": ties,
                "share_of_zero_error": ties / 3,
                "utterances": 900,
            }
            summary["signal"] = {
                "missing_teacher_answers": 3 if events else 0,
                "dropped_strings": 0,
                "skipped_empty": 4,
                "distinct_strings_per_utterance": 3.27,
            }
        write_json(folder / "summary.json", summary)
    return folder


FAULTS = [
    {"time": 1767229200.0, "kind": "teacher_host_lost", "host": 1, "teachers": ["teacher-03"]},
    {"time": 1767229203.5, "kind": "quorum", "answered": 4, "of": 5, "update": 37},
    {"time": 1767229260.0, "kind": "resumed", "update": 40, "checkpoint": "update-40"},
    {"time": 1767229290.0, "kind": "skipped_update", "update": 51, "reason": "loss is nan"},
]


def write_everything(
    root: Path, *, teachers: int = 5, utterances: int = 40
) -> tuple[Path, dict[str, Path]]:
    """An evaluation and the runs of all its systems."""
    evaluation = write_evaluation(
        root / "demo" / "evaluation", teachers=teachers, utterances=utterances
    )
    runs: dict[str, Path] = {}
    for index in range(teachers):
        label = f"teacher-{index + 1:02d}"
        overrides = {"model": {"encoder": {"rnn_size": 96 + 16 * (index % 4), "rnn_layers": 2}}}
        runs[label] = write_run(
            root / "demo" / "teachers" / label,
            f"demo/teachers/{label}",
            command="train",
            strategy=None,
            updates=2 if teachers > 20 else 10,
            final_error=20 + 8 * ((index * 7) % 10) / 10,
            seed=index,
            overrides=overrides,
        )
    for place, (label, strategy) in enumerate(
        [("undistilled", None), ("average", "average"), ("best", "best"), ("weighted", "weighted")]
    ):
        runs[label] = write_run(
            root / "demo" / label,
            f"demo/{label}",
            command="distill" if strategy else "train",
            strategy=strategy,
            final_error=30.0 - 1.4 * place,
            events=FAULTS if label == "weighted" else None,
            ties=0.62 if label == "best" else 0.31,
            seed=50 + place,
        )
    return evaluation, runs
