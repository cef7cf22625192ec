"""One update's gradients: global counts, then forward and backward through every micro-batch.

Everything random depends on (seed, update, micro-batch), so that the same step can be taken again:
by a resumed run, by another number of workers, and by `students.replay`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kd_ray.config.data import SpecAugment
from kd_ray.config.model import TextToText
from kd_ray.core.contracts import Signal
from kd_ray.core.criteria import Criterion, Part
from kd_ray.core.losses import CtcLossSum, LossSum
from kd_ray.core.targets import IntArray
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.spec_augment import spec_augment
from kd_ray.students.collective import Collective
from kd_ray.students.pipeline import MicroBatch, Update

LEFT_OUT = ("strings_too_long", "strings_empty")
"""Teachers' label strings that CTC does not learn, in the figures of an update."""

OnLosses = Callable[[MicroBatch, Signal | None, Mapping[str, LossSum], Tensor], None]
"""Sees a micro-batch, its signal, the losses by part, and the decoder's logits (R, L+1, V)."""


class TeacherForcing(nn.Module):
    """The student's training forward pass, as one module for DDP."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        normalized: Tensor,
        lengths: Tensor,
        utterance: Tensor | None,
        prefix: Tensor,
        prefix_lengths: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """One pass of the encoder, one of the decoder.

        Args:
            normalized: (B, T, F) features, or (B, S) source ids.
            lengths: (B,).
            utterance: (R,) which row of the encoder each row of the decoder attends to; None: its
                own.
            prefix: (R, L).
            prefix_lengths: (R,).

        Returns:
            CTC logits (B, T', V), or None without that head; decoder logits (R, L+1, V).
        """
        encoded = self.model.encode(normalized, lengths)
        read = encoded if utterance is None else encoded.select(utterance)
        decoder_logits = self.model.decoder_logits(read, prefix, prefix_lengths)
        ctc_logits = self.model.ctc_logits(encoded) if self.model.has_ctc else None
        return ctc_logits, decoder_logits


@dataclass
class Learner:
    """What turns micro-batches and signals into gradients, on one worker."""

    model: SequenceModel
    forward: nn.Module
    """`TeacherForcing` around the model, wrapped for the group of workers."""
    criterion: Criterion
    collective: Collective
    augment: SpecAugment | None
    device: torch.device
    seed: int

    def forget_encoder_gradients(self) -> None:
        """Without gradients, the optimiser leaves the encoder and its moments as they are."""
        for parameter in self.model.encoder.parameters():
            parameter.grad = None

    @property
    def _frame_shift_s(self) -> float:
        config = self.model.config
        assert not isinstance(config, TextToText), "text is not augmented"
        return config.front_end.frame_shift_ms / 1000

    def global_counts(self, update: Update, signals: Sequence[Signal | None]) -> dict[Part, float]:
        """Utterances and positions that each part of the loss is divided by, over all workers."""
        local: dict[Part, float] = dict.fromkeys(self.criterion.weights, 0.0)
        for micro, signal in zip(update.micro_batches, signals, strict=True):
            if not micro.ghost:
                counts = self.criterion.counts(
                    references=micro.batch.references,
                    signal=signal,
                    frames=self._frames(micro),
                    items=micro.items,
                )
                for part in local:
                    local[part] += counts[part]
        return dict(zip(local, self.collective.sum(list(local.values())), strict=True))

    def accumulate_gradients(
        self,
        update: Update,
        signals: Sequence[Signal | None],
        counts: Mapping[Part, float],
        *,
        alpha: float | None = None,
        on_losses: OnLosses | None = None,
    ) -> dict[str, float]:
        """Backward through every micro-batch; workers exchange gradients in the last one only.

        Returns this worker's share of the loss, the sums of its parts, and how many label strings
        of teachers were left out of CTC. `alpha`: the teachers' share of this update, where it is
        scheduled. `on_losses` sees each micro-batch's losses before their gradients are taken.
        """
        sums: dict[str, float] = {"loss": 0.0, **dict.fromkeys(self.criterion.weights, 0.0)}
        if "kd_ctc" in self.criterion.weights:
            sums |= dict.fromkeys(LEFT_OUT, 0.0)
        last = len(update.micro_batches) - 1
        self.forward.train()
        for position, (micro, signal) in enumerate(zip(update.micro_batches, signals, strict=True)):
            _seed(self.seed, update.index, micro.part)
            if self.collective.world > 1 and position < last:
                with self.forward.no_sync():  # type: ignore[operator]
                    self._backward(update, micro, signal, counts, sums, alpha, on_losses)
            else:
                self._backward(update, micro, signal, counts, sums, alpha, on_losses)
        return sums

    def _backward(
        self,
        update: Update,
        micro: MicroBatch,
        signal: Signal | None,
        counts: Mapping[Part, float],
        sums: dict[str, float],
        alpha: float | None,
        on_losses: OnLosses | None,
    ) -> None:
        ctc_logits, decoder_logits = self.forward(*self._inputs(update, micro))
        if micro.ghost:
            heads = [
                each.float().mean() for each in (ctc_logits, decoder_logits) if each is not None
            ]
            (0.0 * torch.stack(heads).sum()).backward()  # type: ignore[no-untyped-call]
            return
        losses = self.criterion.losses(
            ctc_logits=ctc_logits,
            frames=self._frames(micro),
            decoder_logits=decoder_logits,
            references=micro.batch.references,
            signal=signal,
            items=micro.items,
        )
        if on_losses is not None:
            on_losses(micro, signal, losses, decoder_logits.detach())
        total = self.criterion.total(losses, counts, alpha=alpha)
        # DDP averages gradients over workers, the loss is a sum over them.
        (total * self.collective.world).backward()  # type: ignore[no-untyped-call]
        sums["loss"] += float(total.detach())
        for part in self.criterion.weights:
            sums[part] += float(losses[part].sum.detach())
        taught = losses.get("kd_ctc")
        if isinstance(taught, CtcLossSum):
            sums["strings_too_long"] += taught.plan.dropped_too_long
            sums["strings_empty"] += taught.plan.skipped_empty

    def _inputs(
        self, update: Update, micro: MicroBatch
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        batch, items = micro.batch, micro.items
        lengths = batch.lengths.to(self.device)
        normalized = self.model.normalize(batch.inputs.to(self.device), lengths)
        if self.augment is not None:
            normalized = spec_augment(
                normalized,
                lengths,
                self.augment,
                seed=self.seed,
                utterance_ids=batch.utterance_ids,
                epoch=update.epoch,
                frame_shift_s=self._frame_shift_s,
            )
        prefix, utterance = batch.references, None
        if items is not None:
            prefix, utterance = items.prefix, torch.from_numpy(items.utterance).to(self.device)
        return (
            normalized,
            lengths,
            utterance,
            torch.from_numpy(prefix.ids).to(self.device),
            torch.from_numpy(prefix.lengths).to(self.device),
        )

    def _frames(self, micro: MicroBatch) -> IntArray:
        """Encoder frames (B,) of a micro-batch, known before the forward pass."""
        return np.array([self.model.output_frames(int(length)) for length in micro.batch.lengths])


def _seed(seed: int, update: int, part: int) -> None:
    """Dropout depends on where we are, not on how we came here, nor on who takes the step."""
    text = f"{seed}/{update}/0/{part}".encode()
    torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))
