"""AggreVaTe (experimental): the student tries an action in its rollout, the expert goes on.

Shapes: R sentences, L tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.imitation import Aggrevate
from kd_ray.core.contracts import Fusion, Generated, Labels, TeacherSource
from kd_ray.core.exploration import Explored, TriedItems, advantages, draw_steps, explore
from kd_ray.core.imitation import Items, rows_of
from kd_ray.core.sentence_rewards import sentence_rewards
from kd_ray.core.targets import IntArray, likeliest
from kd_ray.models.decoding import attention_greedy
from kd_ray.models.encoders import Encoded
from kd_ray.speech.tokens import Tokens
from kd_ray.students.data import Batch
from kd_ray.students.requests import score_along
from kd_ray.students.rollout_memory import Rollouts
from kd_ray.students.rollouts import Planner


@dataclass(kw_only=True)
class Explorer(Planner):
    """A planner whose items end where an action is tried.

    The action is drawn from what the student thinks now, in eval mode and on clean input. The loss
    reads the logits of the same prefix in the training pass.
    """

    section: Aggrevate
    source: TeacherSource
    fusion: Fusion
    """Of the experts' own choices, for `expert_argmax`."""
    tokens: Tokens
    timeout_s: float

    def plan(self, batch: Batch, update: int, epoch: int) -> tuple[Items, Rollouts]:
        """One item for each utterance; see `Planner`."""
        rolled, rollouts = super().plan(batch, update, epoch)
        names, written = batch.utterance_ids, rolled.prefix
        steps = draw_steps(names, written, seed=self.seed, update=update)
        strings = written.strings()
        before = Labels.of([ids[:step] for ids, step in zip(strings, steps, strict=True)])
        encoded, logits_RV = self._look(batch, before)
        explored = explore(
            names,
            written,
            steps,
            logits_RV,
            action=self.section.action,
            random_action_share=self.section.random_action_share,
            expert_argmax=self._expert_argmax(batch, written, steps),
            forbidden=(self.model.blank, self.model.bos),
            eos=self.model.eos,
            seed=self.seed,
            update=update,
        )
        own = None
        if self.section.baseline == "student_completion":
            own = self._own_completions(encoded, explored)
        columns = {name: getattr(rolled, name) for name in _KEPT}
        items = TriedItems(
            **columns,
            prefix=before,
            asked=~explored.ended,
            actions=explored.actions,
            random=explored.random,
            ended=explored.ended,
            tried=explored.prefix,
            own=own,
        )
        return items, rollouts

    def judge(self, items: TriedItems, batch: Batch, answer: Generated | None) -> TriedItems:
        """With the worth of each action, now that the experts have completed the sentences.

        Args:
            items: of `plan`.
            batch: likewise.
            answer: to the question about `asked_rows`; None where nothing was left to complete.
        """
        completed = items.tried.strings()
        if answer is not None:
            for row, ids in zip(items.asked_rows, answer.best.strings.strings(), strict=True):
                completed[row] = ids
        references = self._texts(batch.references.strings())
        prefix_rewards = self._rewards(items.tried.strings(), references)
        rewards = self._rewards(completed, references)
        own = None if items.own is None else self._rewards(items.own.strings(), references)
        advantage, counts = advantages(rewards, prefix_rewards, own)
        return replace(items, rewards=rewards, advantage=advantage, counts=counts)

    def _rewards(
        self, strings: Sequence[IntArray], references: Sequence[str]
    ) -> NDArray[np.float64]:
        return sentence_rewards(self._texts(strings), references, self.section.reward)

    def _texts(self, strings: Sequence[IntArray]) -> list[str]:
        return [self.tokens.decode([int(token) for token in ids]) for ids in strings]

    @torch.no_grad()
    def _look(self, batch: Batch, before: Labels) -> tuple[Encoded, Tensor]:
        """Encoder states, and the student's logits (R, V) behind each prefix."""
        model, was_training = self.model, self.model.training
        model.eval()
        try:
            lengths = batch.lengths.to(self.device)
            normalized = model.normalize(batch.inputs.to(self.device), lengths)
            encoded = model.encode(normalized, lengths)
            steps = torch.from_numpy(np.asarray(before.lengths)).to(self.device)
            logits = model.decoder_logits(
                encoded, torch.from_numpy(before.ids).to(self.device), steps
            )
        finally:
            model.train(was_training)
        return encoded, logits[torch.arange(len(steps), device=self.device), steps]

    @torch.no_grad()
    def _own_completions(self, encoded: Encoded, explored: Explored) -> Labels:
        """What the student itself makes of prefix and action; that itself where it has ended."""
        model, was_training = self.model, self.model.training
        strings = explored.prefix.strings()
        going = np.flatnonzero(~explored.ended)
        if not len(going):
            return explored.prefix
        model.eval()
        try:
            found = attention_greedy(
                model,
                encoded.select(torch.from_numpy(going).to(self.device)),
                torch.full((len(going),), self.config.rollout.max_length),
                prefix=rows_of(explored.prefix, going),
            )
        finally:
            model.train(was_training)
        for row, ids in zip(going, found, strict=True):
            strings[row] = np.asarray(ids, dtype=np.int64)
        return Labels.of(strings)

    def _expert_argmax(self, batch: Batch, written: Labels, steps: IntArray) -> IntArray | None:
        """(R,) the fused experts' likeliest tokens at the steps, where they choose the action."""
        if self.section.action != "expert_argmax":
            return None
        request = score_along(batch, written, self.fusion, self.timeout_s)
        signal = self.source.ask(request).result(self.timeout_s)
        assert signal.tokens is not None, "token distributions were asked for"
        return likeliest(signal.tokens)[np.arange(len(steps)), steps]


def explorer_of(
    planner: Planner, source: TeacherSource, fusion: Fusion, tokens: Tokens, timeout_s: float
) -> Explorer:
    """The planner of a run that tries actions."""
    section = planner.config.aggrevate
    assert section is not None, "there is a section aggrevate"
    return Explorer(
        **vars(planner),
        section=section,
        source=source,
        fusion=fusion,
        tokens=tokens,
        timeout_s=timeout_s,
    )


_KEPT = ("utterance", "on_policy", "kd_weight", "gold_weight")
