"""Scores on the validation split, shared among workers."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kd_ray.config.training import SelectBy
from kd_ray.core.scores import count_errors
from kd_ray.core.translation_scores import TranslationMetric, score_of, sentence_statistics
from kd_ray.evaluation.decode import Hypothesis, decode_features
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.tokens import split_units
from kd_ray.students.collective import Collective
from kd_ray.students.data import StudentData

_SHOWN: tuple[TranslationMetric, ...] = ("bleu", "chrf++")


class Validation:
    """Decodes a split greedily and counts; the counts add up over workers.

    Phones and transcripts are counted by error rates, over the units that `kd-ray evaluate` counts
    (of SentencePiece tokens: words); translations by BLEU and chrF++.
    """

    def __init__(
        self,
        data: StudentData,
        batch_size: int,
        device: torch.device,
        select_by: SelectBy,
        max_batch_s: float | None = None,
    ):
        """`max_batch_s`: longest sum of padded durations that is decoded at a time."""
        self.data = data
        self.select_by = select_by
        self.batch_size = batch_size
        self.device = device
        self.translates = data.column == "translation"
        self.max_batch_s = max_batch_s
        sizes = data.sizes
        self._sizes = sizes
        self._order = sorted(range(len(sizes)), key=lambda row: (-sizes[row], row))

    def run(self, model: SequenceModel, collective: Collective) -> dict[str, float]:
        """Scores in percent; `error_rate` is the one that selects, where less is better."""
        rows = self._order[collective.rank :: collective.world]
        found = {each.utterance_id: each for each in decode_features(model, self._batches(rows))}
        hypotheses = [found[self.data.utterances[row].id] for row in rows]
        if self.translates:
            return self._translation_scores(rows, hypotheses, collective)
        return self._error_rates(rows, hypotheses, model.has_ctc, collective)

    def _error_rates(
        self,
        rows: Sequence[int],
        hypotheses: Sequence[Hypothesis],
        has_ctc: bool,
        collective: Collective,
    ) -> dict[str, float]:
        data, words = self.data, self.data.tokens.words
        # From the text, not from its ids: what an imported inventory lacks would be right as <unk>.
        references = [
            split_units(data.utterances[row].text(data.column) or "", data.tokens.unit)
            for row in rows
        ]
        found = {"attention": [words(each.attention) for each in hypotheses]}
        if has_ctc:
            found["ctc"] = [words(each.ctc) for each in hypotheses]
        errors = [float(count_errors(references, heard).errors) for heard in found.values()]
        length = float(sum(len(reference) for reference in references))
        *errors, length = collective.sum([*errors, length])
        rates = {
            f"error_rate_{head}": 100.0 * count / length
            for head, count in zip(found, errors, strict=True)
        }
        return {"error_rate": rates[f"error_rate_{self.select_by}"], **rates}

    def _translation_scores(
        self, rows: Sequence[int], hypotheses: Sequence[Hypothesis], collective: Collective
    ) -> dict[str, float]:
        texts = [self.data.tokens.decode(each.attention) for each in hypotheses]
        references = [self.data.utterances[row].text("translation") or "" for row in rows]
        scores: dict[str, float] = {}
        for metric in _SHOWN:
            counts = sentence_statistics(texts, references, metric).sum(axis=0)
            scores[metric] = score_of(np.array(collective.sum(counts.tolist())), metric)
        return {"error_rate": 100.0 - scores[self.select_by], **scores}

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[Sequence[str], Tensor, Tensor]]:
        start = 0
        while start < len(rows):
            count = self.batch_size
            if self.max_batch_s is not None:
                # The first row is the longest.
                count = min(count, max(1, int(self.max_batch_s / self._sizes[rows[start]])))
            batch = self.data.batch(rows[start : start + count])
            start += count
            yield (
                batch.utterance_ids,
                batch.inputs.to(self.device),
                batch.lengths.to(self.device),
            )
