"""What a signal is worth to a fixed student: used to compare sources."""

import tiny
import torch

from kd_ray.core.contracts import Audio, Labels
from kd_ray.core.criteria import DistillationCriterion
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.data import Batch
from kd_ray.students.materials import Inventories, new_model
from kd_ray.students.requests import build_request

STRATEGIES = (
    {"type": "average"},
    {"type": "best"},
    {"type": "weighted"},
    {"type": "weighted", "scope": "batch", "trust": "teacher_forced"},
)
TOLERANCE = {"float32": 1e-5, "float16": 1e-3}


def rows_of(root):
    return read_manifest(root / "data" / "train.parquet")


def request_for(config, root, rows):
    tokens = Tokens.load(root / config.data.tokens)
    batch = Batch(
        utterance_ids=tuple(row.id for row in rows),
        inputs=torch.zeros(0),
        lengths=torch.zeros(0),
        references=Labels.of([tokens.encode(row.phones) for row in rows]),
        audio=Audio.of([read_waveform(row, root) for row in rows]),
    )
    return build_request(config, 60.0)(batch, None, 0)


def update_loss(config, root, request, signal):
    """The distillation loss of a student with fixed random weights on the request's batch."""
    tokens = Tokens.load(root / config.data.tokens)
    torch.manual_seed(0)
    model = new_model(config, Inventories(tokens)).eval()
    features, lengths = LogMelExtractor(config.model.front_end)(request.audio.waveforms())
    references = request.references
    with torch.no_grad():
        encoded = model.encode(model.normalize(features, lengths), lengths)
        criterion = DistillationCriterion(config.distillation, blank=tokens.blank, eos=tokens.eos)
        frames = encoded.lengths.numpy()
        counts = criterion.counts(references=references, signal=signal, frames=frames)
        losses = criterion.losses(
            ctc_logits=model.ctc_logits(encoded),
            frames=frames,
            decoder_logits=model.decoder_logits(
                encoded, torch.from_numpy(references.ids), torch.from_numpy(references.lengths)
            ),
            references=references,
            signal=signal,
        )
        return float(criterion.total(losses, counts))


__all__ = ["STRATEGIES", "TOLERANCE", "request_for", "rows_of", "tiny", "update_loss"]
