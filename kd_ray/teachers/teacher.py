"""One teacher: features or source text in, its distributions, label strings and error rates out.

Shapes: B utterances, T frames, F mels, S source tokens, U target positions, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation, Precision
from kd_ray.core.contracts import (
    Labels,
    Masks,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.core.imitation import length_caps
from kd_ray.core.scores import edit_errors
from kd_ray.core.targets import FloatArray, IntArray
from kd_ray.core.translation_scores import chrf_errors
from kd_ray.evaluation.system import System, load_system
from kd_ray.models.decoding import attention_beam, attention_greedy, ctc_greedy, finite_rows
from kd_ray.models.encoders import Encoded
from kd_ray.models.precision import widened
from kd_ray.teachers.casting import Casting
from kd_ray.teachers.compiling import compile_parts, padded_to_bucket
from kd_ray.teachers.readers import Reader, SpeechReader, TextReader


class Teacher:
    """A frozen model that scores and writes; always in evaluation mode, never asked for gradients.

    It may be a recogniser, a speech translator, or a text translator (an expert).

    Args:
        system: the model, with all it needs.
        index: its number in the source.
        computation: in which precision it computes; layers of attention may be compiled.

    Raises:
        ValueError: float16 on a CPU.
    """

    def __init__(self, system: System, index: int, computation: Computation = DEFAULT_COMPUTATION):
        self.system = system
        self.index = index
        self.reader = reader_of(system)
        self.info = info_of(system, index, computation.precision)
        self._casting = Casting(computation.precision, system)
        self._buckets = computation.compile and compile_parts(system.model)

    @torch.inference_mode()
    def score(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
        masks: Masks | None = None,
    ) -> TeacherOutput:
        """Teacher-forced scoring of what `reader` made: (B, T, F) or (B, S), with `lengths` (B,).

        The decoder reads begin-of-sentence + `prefix`; error rates are against `references`.
        The best path is collapsed over the teacher's own frames, whatever the student's are.
        `masks` hide parts of what it hears, after its own normalising.
        """
        model = self.system.model
        encoded = self._encode(inputs, lengths, masks)
        strings, sound = self._strings(encoded)
        positions = prefix.lengths.astype(np.int64) + 1
        log_probs = self._log_probs(encoded, prefix)
        spoken = log_probs.argmax(axis=-1)
        rows = len(positions)
        unknown = np.full(rows, -1, dtype=np.int64)
        text_errors = unknown if "chrf" in wanted else None
        if references is None:
            ctc_errors = decoder_errors = reference_lengths = unknown
        else:
            expected = references.strings()
            ctc_errors = edit_errors(expected, strings) if model.has_ctc else unknown
            said = _until_eos(spoken, positions, model.eos)
            # Along any other prefix they would tell of its writer's mistakes, not of the teacher's.
            pairs = zip(prefix.strings(), expected, strict=True)
            own = np.array([np.array_equal(read, right) for read, right in pairs])
            decoder_errors = np.where(own, edit_errors(expected, said), -1)
            if text_errors is not None:
                text_errors = np.where(own, self._text_errors(said, expected), -1)
            reference_lengths = references.lengths.astype(np.int64)
        return TeacherOutput(
            teacher=self.index,
            log_probs=log_probs if "tokens" in wanted else None,
            positions=positions,
            strings=tuple(strings),
            frames=encoded.lengths.cpu().numpy().astype(np.int64),
            ctc_errors=ctc_errors,
            decoder_errors=decoder_errors,
            reference_lengths=reference_lengths,
            # A host quarantines a teacher by it, as for NaN of the decoder.
            confidence=np.where(sound, _confidence(log_probs, positions), np.float32(np.nan)),
            chrf_errors=text_errors,
        )

    @torch.inference_mode()
    def generate(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        writing: Writing,
        masks: Masks | None = None,
    ) -> Written:
        """The strings that the decoder itself writes, each beginning with its row of `prefix`.

        Greedily, or the best hypothesis of a beam. Scoring them costs one more decoder pass.
        """
        encoded = self._encode(inputs, lengths, masks)
        model, count = self.system.model, len(lengths)
        caps = length_caps(
            writing.max_length, writing.max_length_ratio, encoded.lengths.cpu().numpy()
        )
        limits = torch.from_numpy(caps)
        with self._casting.decoder():
            if writing.beam_size == 1:
                found = attention_greedy(model, encoded, limits, prefix=prefix)
            else:
                beams = attention_beam(
                    model, encoded, limits, beam_size=writing.beam_size,
                    length_penalty=writing.length_penalty, prefix=prefix,
                )  # fmt: skip
                found = [best.tokens for best, *_ in beams]
        strings = Labels.of(found)
        log_probs = self._log_probs(encoded, strings)
        return Written(
            strings=strings,
            mean_log_probs=_mean_behind(log_probs, strings, prefix, model.eos),
            teachers=np.full(count, self.index, dtype=np.int64),
        )

    def _encode(self, inputs: Tensor, lengths: Tensor, masks: Masks | None) -> Encoded:
        """Encoder states of what the teacher is shown, in float32."""
        if self._buckets:
            inputs = padded_to_bucket(inputs)
        masked = None if masks is None else self.reader.masked(masks, inputs, lengths)
        with self._casting.encoder():
            encoded = self.system.encode(inputs, lengths, masked)
        return Encoded(widened(encoded.states), encoded.lengths)

    def _text_errors(self, said: Sequence[IntArray], expected: Sequence[IntArray]) -> IntArray:
        """(B,) 1 - chrF of what was said, as texts."""
        decode = self.system.tokens.decode
        return chrf_errors([decode(ids) for ids in said], [decode(ids) for ids in expected])

    def _log_probs(self, encoded: Encoded, prefix: Labels) -> FloatArray:
        """(B, U, V) of the decoder along a prefix, float32."""
        device, positions = self.system.device, prefix.ids.shape[1] + 1
        # A copy: arrays off the wire are read-only, which torch tensors cannot be.
        ids = torch.from_numpy(prefix.ids.astype(np.int64))
        if self._buckets:
            ids = padded_to_bucket(ids)
        with self._casting.decoder():
            logits = self.system.model.decoder_logits(
                encoded,
                ids.to(device),
                torch.from_numpy(prefix.lengths.astype(np.int64)).to(device),
            )
        logits = logits[:, :positions].float()
        log_probs: FloatArray = torch.log_softmax(logits, dim=-1).cpu().numpy()
        return log_probs

    def _strings(self, encoded: Encoded) -> tuple[list[IntArray], NDArray[np.bool_]]:
        """Collapsed best CTC paths, and (B,) which are of finite numbers; without a head, none."""
        model = self.system.model
        if not model.has_ctc:
            return [], np.ones(len(encoded.lengths), dtype=bool)
        logits = model.ctc_logits(encoded)
        paths = ctc_greedy(logits, encoded.lengths, model.blank)
        strings: list[IntArray] = [np.asarray(string, dtype=np.int64) for string in paths]
        return strings, finite_rows(logits, encoded.lengths)


def info_of(system: System, index: int, precision: Precision = "float32") -> TeacherInfo:
    """Who a system is, as teacher `index` of a source that computes in `precision`."""
    return TeacherInfo(
        index=index,
        name=system.name,
        folder=str(system.folder),
        digest=system.digest,
        tokens_digest=system.tokens.digest,
        vocabulary_size=system.model.vocabulary_size,
        blank=system.model.blank,
        bos=system.model.bos,
        eos=system.model.eos,
        front_end_digest=reader_of(system).digest,
        frame_rate_hz=system.model.frame_rate_hz or 0.0,
        parameters=system.parameters,
        reads=system.model.reads,
        has_ctc=system.model.has_ctc,
        precision=precision,
    )


def reader_of(system: System) -> Reader:
    """What makes a system's inputs of a request."""
    if system.source_tokens is not None:
        return TextReader(system.source_tokens)
    assert system.extractor is not None, "a system reads text or speech"
    return SpeechReader(system.extractor.config)


def load_teachers(
    folders: Sequence[Path],
    device: str = "cpu",
    first_index: int = 0,
    *,
    computation: Computation = DEFAULT_COMPUTATION,
) -> list[Teacher]:
    """Load checkpoint folders; teacher i of the list has index `first_index + i`."""
    return [
        Teacher(load_system(folder, device), index, computation)
        for index, folder in enumerate(folders, start=first_index)
    ]


def _until_eos(spoken: IntArray, positions: IntArray, eos: int) -> list[IntArray]:
    cut = []
    for row, length in zip(spoken, positions, strict=True):
        ends = np.flatnonzero(row[:length] == eos)
        cut.append(row[: ends[0] if len(ends) else length])
    return cut


def _mean_behind(log_probs: FloatArray, strings: Labels, prefix: Labels, eos: int) -> FloatArray:
    """(B,) mean log-probability of the tokens behind the prefix and of the end symbol."""
    means = [
        log_p[np.arange(len(before), len(string) + 1), [*string[len(before) :], eos]].mean()
        for log_p, string, before in zip(
            log_probs, strings.strings(), prefix.strings(), strict=True
        )
    ]
    return np.array(means, dtype=np.float32)


def _confidence(log_probs: FloatArray, positions: IntArray) -> FloatArray:
    best = log_probs.max(axis=-1)
    valid = np.arange(best.shape[1]) < positions[:, None]
    mean: FloatArray = np.where(valid, best, 0.0).sum(axis=1) / positions
    return mean.astype(np.float32)
