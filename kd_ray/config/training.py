"""Sections about optimisation and about where training runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from kd_ray.config.base import Section
from kd_ray.config.placing import LabelSelector, Resources

SelectBy = Literal["attention", "ctc", "bleu", "chrf++"]


class Optimizer(Section):
    """Which torch optimiser, and its settings."""

    type: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(1e-3, ge=0)
    max_grad_norm: float = Field(5.0, gt=0)


class Constant(Section):
    """The learning rate stays at its peak after the warm-up."""

    type: Literal["constant"] = "constant"
    warmup_updates: int = Field(0, ge=0)


class Linear(Section):
    """Linear warm-up, then linear decay to `final` times the peak at the last update."""

    type: Literal["linear"] = "linear"
    warmup_updates: int = Field(50, ge=0)
    final: float = Field(0.05, ge=0, le=1)


class NewBob(Section):
    """Multiply the rate by `factor` when validation error improves by less than `threshold`."""

    type: Literal["new_bob"] = "new_bob"
    warmup_updates: int = Field(0, ge=0)
    threshold: float = Field(0.0025, ge=0)
    """Smallest relative improvement from one validation to the next."""
    factor: float = Field(0.8, gt=0, lt=1)


class InverseSquareRoot(Section):
    """Linear warm-up, then the inverse square root of the update's number (Vaswani et al. 2017)."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_updates: int = Field(10_000, ge=1)


LrSchedule = Annotated[Constant | Linear | NewBob | InverseSquareRoot, Field(discriminator="type")]


class Supervised(Section):
    """Loss against references: `ctc_weight * CTC + (1 - ctc_weight) * NLL`."""

    ctc_weight: float = Field(0.3, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the decoder's NLL, spread evenly over the vocabulary."""


class Training(Section):
    """How long, how fast, how safe."""

    seed: int = Field(1, ge=0)
    epochs: int = Field(15, ge=1)
    max_updates: int | None = Field(None, ge=1)
    """Stop after this many updates even if epochs are left."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches per worker and update; does not change the result. Where the number of workers
    may change, of the largest group; in a smaller one a worker has more of them."""
    lookahead: int = Field(1, ge=0)
    """Batches whose teacher signals are asked for ahead of the student's update."""
    optimizer: Optimizer = Optimizer()
    schedule: LrSchedule = Linear()
    validate_every_epochs: int = Field(1, ge=1)
    select_by: SelectBy = "attention"
    """What keeps the best model and steers New-Bob: an error rate of phones or words, by greedy
    decoding of one head, or a score of translations (their error is 100 minus it)."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without a better model; null: never."""
    checkpoint_every_updates: int | None = Field(None, ge=1)
    """Also checkpoint within epochs; always at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    average_last: int | None = Field(None, ge=2)
    """The exported model is the mean of those of the last so many validations; null: the best."""
    max_skipped_updates: int = Field(5, ge=0)
    """Updates in a row whose loss or gradient may be not finite before the run stops."""
    tensorboard_every_updates: int | None = Field(None, ge=1)
    """Scalars for TensorBoard into `tensorboard/` of the run folder: means of so many updates, and
    every validation; null: none."""
    init_encoder_from: str | None = None
    """Checkpoint folder whose encoder the model starts from."""
    init_from: str | None = None
    """Run or checkpoint folder whose weights the whole model starts from."""
    freeze_encoder_updates: int = Field(0, ge=0)
    """The encoder learns nothing in the first so many updates."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.init_from is not None and self.init_encoder_from is not None:
            raise ValueError(
                f"init_from {self.init_from!r} and init_encoder_from {self.init_encoder_from!r}: "
                "the whole model starts from one folder, or its encoder alone; leave out one"
            )
        return self


class WorkerRange(Section):
    """As many workers as the cluster has room for; what an update learns from stays the same."""

    min: int = Field(ge=1)
    """With room for fewer, training waits."""
    max: int
    """The global batch is split for so many, however many there are."""
    look_every_s: float = Field(60.0, gt=0)
    """How often a group looks for room for more workers. It then starts again, larger, from its
    last checkpoint."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max <= self.min:
            raise ValueError(
                f"min {self.min} and max {self.max}: max must be larger; for a fixed number write "
                f"count: {self.min}"
            )
        return self


def _count(value: Any) -> str:
    """In parentheses: what follows `count` in an error is no key."""
    return "(range)" if isinstance(value, dict | WorkerRange) else "(number)"


class Workers(Section):
    """Where training runs."""

    count: Annotated[
        Annotated[int, Field(ge=1), Tag("(number)")] | Annotated[WorkerRange, Tag("(range)")],
        Discriminator(_count),
    ] = 1
    """Worker processes (DDP), or the fewest and most of them. One worker runs without a worker
    group, unless it is sent to a node by `resources_per_worker` or `label_selector`."""
    cpus: float = Field(1, gt=0)
    """CPUs that each worker reserves; also its torch threads."""
    gpus: float = Field(0, ge=0)
    """GPUs that each worker reserves (fractions share a device)."""
    resources_per_worker: Resources = Field({})
    """Custom resources of the cluster that each worker takes, e.g. `{students: 1}`."""
    label_selector: LabelSelector = Field({})
    """Labels that a worker's node must have."""
    max_restarts: int = Field(2, ge=0)
    """How often the group is restarted after a worker died."""

    @property
    def placed(self) -> bool:
        """Whether workers are sent to nodes of a certain kind."""
        return bool(self.resources_per_worker or self.label_selector)

    @property
    def fewest(self) -> int:
        """Workers without which training does not begin."""
        return self.count if isinstance(self.count, int) else self.count.min

    @property
    def most(self) -> int:
        """Workers where there is room for all of them."""
        return self.count if isinstance(self.count, int) else self.count.max

    @property
    def grouped(self) -> bool:
        """Whether training needs a worker group, instead of the process that starts it."""
        return self.most > 1 or self.placed

    @model_validator(mode="after")
    def _room_can_be_counted(self) -> Self:
        """Ray Train 2.60 counts the room for a group that may change by resources, not by labels.

        It would take nodes without the label for room, and wait for a group that never starts.
        """
        if self.fewest < self.most and self.label_selector and not self.resources_per_worker:
            raise ValueError(
                f"count {self.fewest} to {self.most} with label_selector "
                f"{self.label_selector}: Ray Train counts the room for such a group by resources "
                "alone; give its nodes a custom resource, and name that in resources_per_worker "
                "(with or without the label)"
            )
        return self
