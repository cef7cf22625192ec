"""Whose prefix the decoder reads: data prefixes and the student's own rollouts, as items.

A micro-batch of B utterances goes through the encoder once and through the decoder as R items, each
of which is one prefix of one utterance. Off-policy training is R = B, one data prefix each.

Everything random is a function of (seed, update, utterance id), so that neither the number of
workers nor the order of utterances changes it.

Shapes: B utterances, R items, A items that teachers are asked about (A <= R), L tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.imitation import Rollout, Selector
from kd_ray.core.contracts import Labels
from kd_ray.core.targets import FloatArray, IntArray

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Items:
    """What the decoder reads and what each part of the loss makes of it.

    `utterance` (R,) row of the batch; `prefix` R token strings without begin and end symbols;
    `on_policy` (R,) true for rollouts. `kd_weight`, `gold_weight` (R,) weigh the item's positions
    in the teachers' and in the references' part of the attention loss; an item with a gold weight
    has the reference itself as prefix. `asked` (R,): teachers score this item, so that a signal has
    a row for each such item, in this order.
    """

    utterance: IntArray
    prefix: Labels
    on_policy: BoolArray
    kd_weight: FloatArray
    gold_weight: FloatArray
    asked: BoolArray

    def __post_init__(self) -> None:
        rows = len(self.utterance)
        for name in ("on_policy", "kd_weight", "gold_weight", "asked"):
            if len(getattr(self, name)) != rows:
                raise ValueError(f"{rows} items, but {name} has {len(getattr(self, name))}")
        if len(self.prefix.lengths) != rows:
            raise ValueError(f"{rows} items, but prefix has {len(self.prefix.lengths)} rows")

    def __len__(self) -> int:
        return len(self.utterance)

    @property
    def positions(self) -> IntArray:
        """(R,) positions of each item: its prefix and the end symbol."""
        return np.asarray(self.prefix.lengths) + 1

    @property
    def asked_rows(self) -> IntArray:
        """(A,) the items that teachers score."""
        return np.flatnonzero(self.asked)

    def asked_prefix(self) -> Labels:
        """What teachers read: the prefixes of `asked_rows`."""
        return rows_of(self.prefix, self.asked_rows)

    def select(self, rows: IntArray) -> "Items":
        """These items alone, e.g. those of one micro-batch."""
        return Items(
            utterance=self.utterance[rows],
            prefix=rows_of(self.prefix, rows),
            on_policy=self.on_policy[rows],
            kd_weight=self.kd_weight[rows],
            gold_weight=self.gold_weight[rows],
            asked=self.asked[rows],
        )


def rows_of(labels: Labels, rows: IntArray) -> Labels:
    """Some rows of token strings."""
    return Labels(labels.ids[rows], labels.lengths[rows])


def uniform_draws(
    purpose: str, utterance_ids: Sequence[str], seed: int, update: int
) -> NDArray[np.float64]:
    """A number in [0, 1) for each utterance, by hashing (purpose, seed, update, id).

    Independent of worker, order and batch-mates; `purpose` keeps draws for different uses apart.
    """
    draws = np.empty(len(utterance_ids))
    for row, utterance_id in enumerate(utterance_ids):
        text = f"{purpose}/{seed}/{update}/{utterance_id}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        # 53 bits: what a float64 between 0 and 1 holds exactly, so that 1.0 cannot come out.
        draws[row] = (int.from_bytes(digest, "big") >> 11) * 2.0**-53
    return draws


def select_rows(utterance_ids: Sequence[str], beta: float, seed: int, update: int) -> BoolArray:
    """(B,) which sentences get a rollout: each with probability 1 - beta, by itself.

    beta 1 selects none, beta 0 all; for the same update a smaller beta selects a superset.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be between 0 and 1, got {beta}")
    return np.asarray(uniform_draws("rollout", utterance_ids, seed, update) >= beta)


def rows_to_roll_out(
    selector: Selector, utterance_ids: Sequence[str], *, beta: float, seed: int, update: int
) -> BoolArray:
    """(B,) the rows for which the student must decode; no others are ever decoded.

    Args:
        selector: who gets a rollout.
        utterance_ids: of the micro-batch.
        beta: of this update; read by `beta` and `both`.
        seed: of the run.
        update: its number.
    """
    rows = len(utterance_ids)
    if selector.type == "beta":
        return select_rows(utterance_ids, beta, seed, update)
    if selector.type == "both":
        return np.full(rows, beta < 1.0)
    return np.full(rows, selector.type != "never")


def rollout_caps(config: Rollout, encoder_lengths: IntArray) -> IntArray:
    """(B,) most tokens of each rollout, from the row's own input: batch-mates do not matter.

    `min(max_length, max_length_ratio * encoder positions)`, rounded up, at least 1.
    """
    return length_caps(config.max_length, config.max_length_ratio, encoder_lengths)


def length_caps(max_length: int, ratio: float | None, encoder_lengths: IntArray) -> IntArray:
    """(B,) `min(max_length, ratio * encoder positions)`, rounded up, at least 1."""
    caps = np.full(len(encoder_lengths), max_length, dtype=np.int64)
    if ratio is not None:
        scaled = np.ceil(ratio * np.asarray(encoder_lengths)).astype(np.int64)
        caps = np.minimum(caps, np.maximum(scaled, 1))
    return caps


def plan_items(
    selector: Selector,
    data: Labels,
    rollouts: Mapping[int, IntArray | Sequence[int]],
    *,
    beta: float = 1.0,
    scores: Mapping[int, float] | None = None,
    references: Labels | None = None,
    learns_gold: bool = False,
    ask_on_data: bool = True,
    ask_every_utterance: bool = False,
) -> Items:
    """Turn data prefixes and rollouts into items.

    First comes one item for each utterance, in order: its rollout where the selector takes it, its
    data prefix otherwise; with `both`, the data prefix. Then, with `both`, the rollouts. Weights in
    the teachers' part are 1, or with `both` beta and 1 - beta; items of weight 0 are left out.

    The references' part (`learns_gold`) always learns references on reference prefixes. Where
    an utterance has its reference as prefix, that item serves both parts; where it was replaced by
    a rollout, or where the data prefix is a teacher's output, one more item with the reference as
    prefix follows at the end, which no teacher is asked about: it costs a decoder row, not a
    second encoder pass.

    Args:
        selector: who gets a rollout.
        data: (B rows) data prefixes; length -1 for an utterance that has none.
        rollouts: the student's own strings, without end symbol, by row: those of
            `rows_to_roll_out`, no others.
        beta: of this update; read by `both`.
        scores: `quality` only: for each rollout its score; at least the threshold keeps it.
        references: (B rows) where the data prefixes are not the references themselves; length -1
            for none.
        learns_gold: references have a share in the loss.
        ask_on_data: teachers are asked about data prefixes (not where `data_target` is `own`).
        ask_every_utterance: teachers are asked about one item of every utterance whatever the
            targets, because the criterion also learns their label strings.

    Raises:
        ValueError: rollouts for rows that need none, or none for rows that need one; an utterance
            without any prefix; a rollout without score.
    """
    rows = len(data.lengths)
    kind = selector.type
    have = np.zeros(rows, dtype=np.bool_)
    have[list(rollouts)] = True
    _check_rollouts(kind, have, beta)
    kept = have.copy()
    if selector.type == "quality":
        if scores is None or set(scores) != set(rollouts):
            raise ValueError("selector 'quality' needs a score for each rollout, and no other")
        kept[[row for row, score in scores.items() if score < selector.threshold]] = False
    strings = data.strings()
    present = np.asarray(data.lengths) >= 0
    built = _Builder()
    for row in range(rows):
        if kind == "both" or not kept[row]:
            weight = beta if kind == "both" else 1.0
            if weight > 0 and not present[row]:
                raise ValueError(
                    f"row {row} has no data prefix (no reference and no stored teacher output) and "
                    "no rollout in its place; use selector 'always', give it a teacher's output "
                    "as reference, or leave the utterance out"
                )
            if weight > 0:
                built.add(row, strings[row], False, weight, 0.0, ask_on_data)
        else:
            built.add(row, rollouts[row], True, 1.0, 0.0, True)
    if kind == "both":
        for row in np.flatnonzero(have).tolist():
            built.add(row, rollouts[row], True, 1.0 - beta, 0.0, True)
    if learns_gold:
        built.add_gold(data if references is None else references)
    if ask_every_utterance:
        built.ask_every_utterance()
    return built.items()


def with_older_rollouts(
    items: Items, older: Mapping[int, Sequence[Sequence[int] | IntArray]]
) -> Items:
    """Further items at the end: older rollouts of utterances that are read with one (DAgger).

    Each counts like the rollout that is there, and teachers are asked about it.

    Args:
        items: of a micro-batch.
        older: strings by row; those of a row without a rollout among its items are left out.
    """
    weights = dict(
        zip(items.utterance[items.on_policy].tolist(), items.kd_weight[items.on_policy].tolist(),
            strict=True)
    )  # fmt: skip
    added = [(row, string) for row in sorted(older) if row in weights for string in older[row]]
    if not added:
        return items
    count = len(added)
    rows = np.array([row for row, _ in added], dtype=np.int64)
    return Items(
        utterance=np.concatenate([items.utterance, rows]),
        prefix=Labels.of([*items.prefix.strings(), *(string for _, string in added)]),
        on_policy=np.concatenate([items.on_policy, np.ones(count, dtype=np.bool_)]),
        kd_weight=np.concatenate([items.kd_weight, [weights[row] for row, _ in added]]),
        gold_weight=np.concatenate([items.gold_weight, np.zeros(count)]),
        asked=np.concatenate([items.asked, np.ones(count, dtype=np.bool_)]),
    )


class _Builder:
    """Columns of items that are being put together."""

    def __init__(self) -> None:
        self._utterance: list[int] = []
        self._strings: list[IntArray | Sequence[int]] = []
        self._on_policy: list[bool] = []
        self._kd: list[float] = []
        self._gold: list[float] = []
        self._asked: list[bool] = []

    def add(
        self,
        utterance: int,
        string: IntArray | Sequence[int],
        on_policy: bool,
        kd: float,
        gold: float,
        asked: bool,
    ) -> None:
        self._utterance.append(utterance)
        self._strings.append(string)
        self._on_policy.append(on_policy)
        self._kd.append(kd)
        self._gold.append(gold)
        self._asked.append(asked)

    def add_gold(self, references: Labels) -> None:
        """Give every reference its item: a data prefix that equals it, or one of its own."""
        by_row = {
            row: item
            for item, (row, on_policy) in enumerate(
                zip(self._utterance, self._on_policy, strict=True)
            )
            if not on_policy
        }
        for row in np.flatnonzero(np.asarray(references.lengths) >= 0).tolist():
            string = references.ids[row, : references.lengths[row]]
            item = by_row.get(row)
            if item is not None and np.array_equal(self._strings[item], string):
                self._gold[item] = 1.0
            else:
                self.add(row, string, False, 0.0, 1.0, False)

    def ask_every_utterance(self) -> None:
        asked = {row for row, asked in zip(self._utterance, self._asked, strict=True) if asked}
        for item, row in enumerate(self._utterance):
            if row not in asked:
                self._asked[item] = True
                asked.add(row)

    def items(self) -> Items:
        return Items(
            utterance=np.array(self._utterance, dtype=np.int64),
            prefix=Labels.of(self._strings),
            on_policy=np.array(self._on_policy, dtype=np.bool_),
            kd_weight=np.array(self._kd, dtype=np.float64),
            gold_weight=np.array(self._gold, dtype=np.float64),
            asked=np.array(self._asked, dtype=np.bool_),
        )


def _check_rollouts(kind: str, have: BoolArray, beta: float) -> None:
    """Rollouts are there where they are used, and only there."""
    if kind == "never" or (kind == "both" and beta >= 1.0):
        if have.any():
            raise ValueError(
                f"{int(have.sum())} rollouts were made that selector {kind!r} (beta {beta}) never "
                "uses; roll out only `rows_to_roll_out`"
            )
    elif kind != "beta" and not have.all():
        raise ValueError(
            f"selector {kind!r} needs a rollout for every row; rows "
            f"{np.flatnonzero(~have)[:8].tolist()} have none"
        )
