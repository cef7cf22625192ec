"""`kd-ray decode`: what one system hears in a manifest or in audio files."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_ray.config.commands import DecodeConfig
from kd_ray.evaluation.decode import decode_utterances
from kd_ray.evaluation.run_folder import write_json_lines
from kd_ray.evaluation.system import load_system
from kd_ray.speech.audio import read_duration_s
from kd_ray.speech.manifest import Utterance, read_manifest

logger = logging.getLogger(__name__)


def decode(config: DecodeConfig, root: Path) -> list[dict[str, Any]]:
    """Greedy hypotheses, in the order of the input; written to `output` or to standard output."""
    system = load_system(root / config.system)
    if config.manifest is not None:
        utterances = read_manifest(root / config.manifest)
    else:
        utterances = [_from_file(path, root) for path in config.audio]
    by_id = {
        hypothesis.utterance_id: hypothesis
        for hypothesis in decode_utterances(
            system.encode_waveforms, system.model, utterances, root, config.batch_size
        )
    }
    rows = [
        {"id": row.id, "hypothesis": system.tokens.decode(getattr(by_id[row.id], config.decoding))}
        for row in utterances
    ]
    if config.output is None:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        write_json_lines(root / config.output, rows)
        logger.info("%d hypotheses in %s", len(rows), root / config.output)
    return rows


def _from_file(path: str, root: Path) -> Utterance:
    whole = Utterance(id=path, audio=path)
    return replace(whole, duration_s=read_duration_s(whole, root))
