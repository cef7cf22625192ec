"""The student's own prefixes: who gets one, how it is written, and what the decoder then reads.

Shapes: B utterances, R items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import TeacherSource
from kd_ray.core.imitation import (
    Items,
    plan_items,
    rollout_caps,
    rows_to_roll_out,
    uniform_draws,
    with_older_rollouts,
)
from kd_ray.core.schedules import Progress, beta_at
from kd_ray.core.targets import IntArray
from kd_ray.models.decoding import attention_beam, attention_greedy, attention_sample
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.tokens import Tokens
from kd_ray.students.data import Batch
from kd_ray.students.gate import Gate
from kd_ray.students.rollout_memory import RolloutMemory, Rollouts, Written, rollouts_to_json

Exchange = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The entries of all workers."""


@dataclass
class Planner:
    """Decides for each micro-batch what the decoder reads, and writes the rollouts for it.

    `saved` are rollouts that were in flight when the run was stopped, by update: they were made
    from weights that are gone, and stand in for new ones.
    """

    config: Distillation
    model: SequenceModel
    seed: int
    total_updates: int
    epochs: int
    device: torch.device
    saved: Mapping[str, Rollouts]
    gate: Gate | None = None
    """Scores rollouts, with selector `quality`."""
    memory: RolloutMemory | None = None
    """Rollouts of earlier updates, where some are read again."""
    exchange: Exchange = dict
    """Among the workers, for `memory`."""

    @property
    def staleness(self) -> int:
        """Updates between the weights that write a rollout and those that learn from it."""
        return self.config.staleness

    @property
    def rolls_out(self) -> bool:
        """Whether what is planned depends on the student's weights."""
        return self.config.selector.type != "never"

    def progress(self, update: int, epoch: int) -> Progress:
        """How far the run is before this update."""
        return Progress(update, self.total_updates, epoch, self.epochs)

    def beta(self, update: int, epoch: int) -> float:
        """The probability that a sentence keeps its data prefix in this update."""
        if self.config.beta is None:
            return 0.0 if self.config.selector.type == "always" else 1.0
        return beta_at(self.config.beta, self.progress(update, epoch))

    def plan(self, batch: Batch, update: int, epoch: int) -> tuple[Items, Rollouts]:
        """The items of a micro-batch, and the rollouts among them.

        Raises:
            Busy: teachers are to be asked, and the source is over its byte budget.
            TeachersGone: too few teachers answered.
        """
        asked = None if self.gate is None else self.gate.ask(batch)
        beta = self.beta(update, epoch)
        chosen = rows_to_roll_out(
            self.config.selector, batch.utterance_ids, beta=beta, seed=self.seed, update=update
        )
        rows = np.flatnonzero(chosen)
        read = self._prefixes(batch, rows, update)
        own = {row: prefixes[-1].ids for row, prefixes in zip(rows.tolist(), read, strict=True)}
        config = self.config
        items = plan_items(
            config.selector,
            batch.references,
            own,
            beta=beta,
            scores=None if asked is None else asked.scores(own),
            learns_gold=config.smallest_alpha < 1.0,
            ask_on_data=config.data_target != "own",
            ask_every_utterance=config.ctc_weight > 0 and config.largest_alpha > 0,
        )
        older = {
            row: [each.ids for each in prefixes[:-1]]
            for row, prefixes in zip(rows.tolist(), read, strict=True)
        }
        names = [batch.utterance_ids[row] for row in rows]
        return with_older_rollouts(items, older), dict(zip(names, read, strict=True))

    def remember(self, update: int, read: Rollouts) -> None:
        """Keep what was written for an update, where later ones may read it.

        Args:
            update: planned, with all its micro-batches; updates come in order.
            read: the rollouts of this worker's micro-batches.
        """
        if self.memory is None:
            return
        # What an interrupted run had written for it is in the memory already.
        saved = self.saved.get(str(update), {})
        new = {
            name: each[-1] for name, each in read.items()
            if each[-1].update == update and name not in saved
        }  # fmt: skip
        self.memory.add(update, self.exchange(new))

    def _prefixes(self, batch: Batch, rows: IntArray, update: int) -> list[list[Written]]:
        """The rollouts that these rows are read with; of an interrupted run as they were."""
        names = [batch.utterance_ids[row] for row in rows]
        saved, memory = self.saved.get(str(update), {}), self.memory
        own: dict[str, Written] = {}
        for name in names:
            again = None if memory is None else memory.reusable(name, update)
            if again is not None:
                own[name] = again
        new = [row for row, name in zip(rows.tolist(), names, strict=True)
               if name not in own and name not in saved]  # fmt: skip
        if new:
            written = self._decode(batch.take(np.array(new)), update)
            for row, ids in zip(new, written, strict=True):
                own[batch.utterance_ids[row]] = Written(ids, update)
        prefixes: list[list[Written]] = []
        for name in names:
            if name in saved:
                prefixes.append(saved[name])
            else:
                prefixes.append([own[name]] if memory is None else memory.prefixes(name, own[name]))
        return prefixes

    @torch.no_grad()
    def _decode(self, batch: Batch, update: int) -> list[list[int]]:
        """Rollouts of clean input, in eval mode unless dropout is asked for."""
        config = self.config.rollout
        was_training = self.model.training
        self.model.train(config.dropout)
        seeds = _seeds(batch.utterance_ids, self.seed, update)
        # Dropout while decoding has to repeat itself; training seeds its own before each pass.
        torch.manual_seed(seeds[0])
        try:
            return self._decode_rows(batch, seeds)
        finally:
            self.model.train(was_training)

    def _decode_rows(self, batch: Batch, seeds: Sequence[int]) -> list[list[int]]:
        config, model = self.config.rollout, self.model
        longest = int(batch.lengths.max())
        lengths = batch.lengths.to(self.device)
        inputs = batch.inputs[:, :longest].to(self.device)
        encoded = model.encode(model.normalize(inputs, lengths), lengths)
        limits = torch.from_numpy(rollout_caps(config, encoded.lengths.cpu().numpy()))
        if config.decoding == "sample":
            return attention_sample(
                model, encoded, limits, seeds=seeds, top_k=config.top_k,
                temperature=config.temperature,
            )  # fmt: skip
        if config.decoding == "beam":
            assert config.beam_size is not None
            best = attention_beam(model, encoded, limits, beam_size=config.beam_size)
            return [list(hypotheses[0].tokens) for hypotheses in best]
        return attention_greedy(model, encoded, limits)


def build_planner(
    config: Distillation,
    model: SequenceModel,
    *,
    seed: int,
    total_updates: int,
    epochs: int,
    device: torch.device,
    saved: Mapping[str, Rollouts],
    stored: Mapping[str, Any],
    exchange: Exchange,
    source: TeacherSource | None,
    tokens: Tokens,
    timeout_s: float,
) -> Planner | None:
    """The planner of a run; None where every sentence is read along its reference.

    `source`, `tokens` and `timeout_s` are for planners that ask teachers themselves.
    """
    if config.selector.type == "never" and config.data_target == "distribution":
        return None
    gate = None
    if config.selector.type == "quality":
        assert source is not None, "a distillation has a source"
        gate = Gate(config.selector, source, tokens, config.rollout.max_length, timeout_s)
    return Planner(
        config, model, seed, total_updates, epochs, device, saved, gate=gate,
        memory=RolloutMemory.of(config.rollout, stored), exchange=exchange,
    )  # fmt: skip


def remembered(planner: Planner | None) -> dict[str, Any]:
    """The planner's memory of all workers' rollouts, for a checkpoint."""
    if planner is None or planner.memory is None:
        return {}
    return rollouts_to_json(planner.memory.stored)


def _seeds(utterance_ids: Sequence[str], seed: int, update: int) -> list[int]:
    draws = uniform_draws("sampling", utterance_ids, seed, update)
    return [int(draw * 2**53) for draw in draws]
