"""Greedy error rates on the validation split, shared among workers."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from kd_ray.core.scores import edit_errors
from kd_ray.evaluation.decode import decode_features
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.students.collective import Collective
from kd_ray.students.data import StudentData


class Validation:
    """Decodes a split and counts errors; the counts add up over workers."""

    def __init__(
        self,
        data: StudentData,
        batch_size: int,
        device: torch.device,
        select_by: Literal["attention", "ctc"],
    ):
        self.data = data
        self.select_by = select_by
        self.batch_size = batch_size
        self.device = device
        durations = data.sizes
        self._order = sorted(range(len(durations)), key=lambda row: (-durations[row], row))

    def run(self, model: RecognizerModel, collective: Collective) -> dict[str, float]:
        """Error rates in percent of reference tokens; `error_rate` is the one that selects."""
        rows = self._order[collective.rank :: collective.world]
        by_id = {self.data.utterances[row].id: self.data.references[row] for row in rows}
        hypotheses = list(decode_features(model, self._batches(rows)))
        references = [by_id[hypothesis.utterance_id] for hypothesis in hypotheses]
        attention = edit_errors(references, [hypothesis.attention for hypothesis in hypotheses])
        ctc = edit_errors(references, [hypothesis.ctc for hypothesis in hypotheses])
        length = sum(len(reference) for reference in references)
        attention_errors, ctc_errors, total = collective.sum(
            [float(attention.sum()), float(ctc.sum()), float(length)]
        )
        rates = {
            "error_rate_attention": 100.0 * attention_errors / total,
            "error_rate_ctc": 100.0 * ctc_errors / total,
        }
        return {"error_rate": rates[f"error_rate_{self.select_by}"], **rates}

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[Sequence[str], Tensor, Tensor]]:
        for start in range(0, len(rows), self.batch_size):
            batch = self.data.batch(rows[start : start + self.batch_size], with_audio=False)
            yield (
                batch.utterance_ids,
                batch.inputs.to(self.device),
                batch.lengths.to(self.device),
            )
