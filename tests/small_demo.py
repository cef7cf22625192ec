"""What `make demo` and `make demo-st` do, at the smallest size that trains: configurations."""

from typing import Any

import tiny

_SIZES = {"train": 24, "valid": 8, "test": 8, "unlabelled": 2}
_SPEAKERS = {"train": 3, "valid": 2, "test": 2, "unlabelled": 1}

DATA: dict[str, Any] = {
    "train": "data/demo/train.parquet",
    "valid": "data/demo/valid.parquet",
    "tokens": "data/demo/tokens.json",
    "batches": {"batch_size": 8},
}

_WRITES_WORDS = {**DATA, "tokens": "data/demo/tokens_letters.json", "column": "transcript"}

_TRANSLATES = {
    **DATA,
    "train": "data/demo/text_only.parquet",
    "tokens": "data/demo/tokens_target.json",
    "column": "translation",
    "source_tokens": "data/demo/tokens_letters.json",
    "source_column": "transcript",
}


def recognition() -> dict[str, dict[str, Any]]:
    """File name (without `.yaml`) to configuration: corpus, two teachers, students, their report.

    Runs are below `runs/d`, the corpus is `data/demo`; it has letters and translations too.
    """
    corpus = {"type": "demo", "max_words": 4, "text_only_sentences": 16}
    corpus |= {f"{split}_utterances": count for split, count in _SIZES.items()}
    corpus |= {f"{split}_speakers": count for split, count in _SPEAKERS.items()}
    letters = {"unit": "characters", "column": "transcript", "splits": ["train", "text_only"]}
    base = {
        "command": "train",
        "name": "d/none",
        "data": DATA,
        "model": tiny.MODEL,
        "training": {"epochs": 1},
    }
    teachers = {
        "list": "runs/d/teachers/teachers.txt",
        "source": {"type": "store", "path": "runs/d/store"},
    }
    distill = {**base, "command": "distill", "name": "d/weighted", "teachers": teachers}
    pooled = {**teachers, "source": {"type": "pool", "hosts": 2}}
    return {
        "corpus": {
            "command": "prepare",
            "folder": "data/demo",
            "corpus": corpus,
            "inventories": {
                "letters": letters,
                "target": {**letters, "column": "translation"},
            },
        },
        "teachers": {
            "command": "train-teachers",
            "name": "d/teachers",
            "base": base,
            "teachers": [{"name": "a"}, {"name": "b", "overrides": {"training.seed": 2}}],
        },
        "store": {
            "command": "infer-teachers",
            "store": "runs/d/store",
            "teachers": teachers["list"],
            "splits": {"train": DATA["train"]},
            "tokens": DATA["tokens"],
        },
        "none": base,
        "weighted": distill,
        "pooled": {**distill, "name": "d/pooled", "teachers": pooled},
        "evaluate": {
            "command": "evaluate",
            "name": "d/evaluation",
            "systems": {
                "teachers": teachers["list"],
                "students": {"none": "runs/d/none", "weighted": "runs/d/weighted"},
            },
            "splits": {"valid": DATA["valid"], "test": "data/demo/test.parquet"},
            "tokens": DATA["tokens"],
            "speed_utterances": 2,
        },
        "report": {
            "command": "report",
            "name": "d",
            "title": "tiny",
            "evaluation": "runs/d/evaluation",
            "runs": {"none": "runs/d/none", "weighted": "runs/d/weighted"},
            "teachers": teachers["list"],
        },
    }


def translation() -> dict[str, dict[str, Any]]:
    """A recogniser and an expert of the same corpus, and the manifests that they write anew."""
    training = {"epochs": 1}
    written = {
        "manifest": DATA["train"],
        "decoding": "attention",
        "max_tokens": 5,
        "empty": "keep",
    }
    return {
        "recogniser": {
            "command": "train",
            "name": "d/recogniser",
            "data": _WRITES_WORDS,
            "model": tiny.MODEL,
            "training": training,
        },
        "expert": {
            "command": "train",
            "name": "d/expert",
            "data": _TRANSLATES,
            "model": {
                "type": "text_to_text",
                "encoder": tiny.ATTENTION,
                "decoder": tiny.ATTENTION,
            },
            "loss": {"ctc_weight": 0},
            "training": {**training, "select_by": "bleu"},
        },
        "transcribe": {
            "command": "transcribe",
            "system": "runs/d/recogniser",
            "output": "data/demo/train_asr.parquet",
            **written,
        },
        "translate": {
            "command": "translate",
            "system": "runs/d/expert",
            "output": "data/demo/train_expert.parquet",
            **written,
        },
    }
