"""`kd-ray decode`: what one system hears or translates in a manifest or in audio files."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_ray.commands.decoders import decoders
from kd_ray.config.evaluation import DecodeConfig
from kd_ray.evaluation.cascade import load_any
from kd_ray.evaluation.decode import Search, decode_utterances
from kd_ray.evaluation.run_folder import write_json_lines
from kd_ray.report.progress import progress
from kd_ray.speech.audio import read_duration_s
from kd_ray.speech.manifest import Utterance, read_manifest

logger = logging.getLogger(__name__)


def decode(config: DecodeConfig, root: Path) -> list[dict[str, Any]]:
    """Hypotheses, in the order of the input; written to `output` or to standard output."""
    system = load_any(config.system, root, reads_column=config.reads_column)
    system.require(config.decoding)
    if config.manifest is not None:
        utterances = read_manifest(root / config.manifest)
    else:
        utterances = [_from_file(path, root) for path in config.audio]
    search = Search((config.decoding,), config.beam_size, config.length_penalty, config.max_tokens)
    # Hypotheses that are printed must not have lines of progress between them.
    lines = config.output is not None
    with (
        progress("decoding", "utterances", len(utterances), lines=lines) as task,
        decoders(config, root) as decoder_of,
    ):
        hypotheses = decode_utterances(
            system, utterances, root, config.batch_size, search, task.advance,
            decoder_of(config.system, system, config.reads_column),
        )  # fmt: skip
        by_id = {hypothesis.utterance_id: hypothesis for hypothesis in hypotheses}
    rows: list[dict[str, Any]] = []
    for utterance in utterances:
        found = by_id[utterance.id]
        row = {"id": utterance.id, "hypothesis": system.tokens.decode(found.by(config.decoding))}
        if found.transcript is not None:
            row["transcript"] = found.transcript
        rows.append(row)
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
