"""Sections about teachers: where signals come from and how many become one."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.data import TextColumn
from kd_ray.config.evaluation import Head
from kd_ray.config.imitation import (
    AGGREVATE_LOSSES,
    PRESETS,
    Aggrevate,
    BetaSchedule,
    DataTarget,
    Divergence,
    ExponentialBeta,
    GoldSchedule,
    Never,
    Preset,
    Rollout,
    RolloutTarget,
    Selector,
)
from kd_ray.config.sources import LocalSource, PoolSource, Source, StoreSource
from kd_ray.config.strategies import Fusing, Strategy, Weighted


class OnTheFly(Section):
    """A recogniser whose transcripts text teachers read, made while the student trains."""

    system: str
    """Run or checkpoint folder of a recogniser that writes words."""
    decoding: Head = "attention"
    """How the transcript is found."""
    beam_size: int = Field(5, ge=1)
    """`beam` only; likewise `length_penalty`."""
    length_penalty: float = Field(1.0, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    """Longest transcript; null: encoder frames."""
    cache_utterances: int = Field(100_000, ge=0)
    """Transcripts that the source (each host of a pool) remembers; 0: each is made every time."""


class Teachers(Section):
    """Which teachers, asked how."""

    list: str | tuple[str, ...] | None = None
    """A text file with one checkpoint folder a line (globs and # comments allowed), or a list.

    With a store, or a pool that runs already, it may be left out: every teacher there.
    """
    source: Source = LocalSource()
    reads: TextColumn | Literal["asr_transcript"] | None = None
    """The manifest column that text teachers (translation experts) read; `asr_transcript`: what
    `recognizer` hears in the audio; null: they hear themselves."""
    recognizer: OnTheFly | None = None
    """For `reads: asr_transcript`, and needed there."""
    strategy: Strategy = Weighted()
    dtype: Literal["float32", "float16"] = "float32"
    """To which teachers' log-probabilities are rounded before fusing; the store has its own."""
    view: Literal["clean", "student"] = "clean"
    """What teachers hear: the audio as it is, or with the very masks (`data.augment`) that the
    student's features have in the same epoch."""

    @model_validator(mode="after")
    def _teachers_are_named(self) -> Self:
        knows = isinstance(self.source, StoreSource) or (
            isinstance(self.source, PoolSource) and self.source.name is not None
        )
        if not self.list and not knows:
            raise ValueError(
                f"list must name at least one teacher where source.type is {self.source.type!r} "
                "(only a store, or a pool that runs already, knows its teachers by itself)"
            )
        return self

    @property
    def column(self) -> TextColumn | None:
        """The manifest column that requests carry; None: no text."""
        return None if self.reads == "asr_transcript" else self.reads

    @model_validator(mode="after")
    def _somebody_transcribes(self) -> Self:
        if (self.reads == "asr_transcript") != (self.recognizer is not None):
            raise ValueError(
                f"reads is {self.reads!r} and recognizer is "
                f"{'set' if self.recognizer else 'null'}: transcripts made on the fly need "
                "reads 'asr_transcript' and recognizer; for stored ones set reads to their column "
                "(transcript) and leave recognizer out"
            )
        if self.recognizer is not None and isinstance(self.source, StoreSource):
            raise ValueError(
                "recognizer transcribes for teachers that are there, and source.type is 'store'; "
                "take 'local' or 'pool'"
            )
        return self


class Distillation(Section):
    """What the student learns from the teachers' signals.

    `L = ctc_weight * L_ctc + (1 - ctc_weight) * L_att`, each
    `alpha * temperature**2 * KD + (1 - alpha) * supervised`; the CTC part reads collapsed best
    paths, on which temperature does not act, so it has no factor. The decoder's KD depends on
    whose prefix a sentence is read with: `selector`, `data_target`, `rollout_target`.
    """

    preset: Preset | None = None
    """A named setting of the switches below; a switch that is set beside it must agree with it."""
    alpha: float = Field(0.7, ge=0, le=1)
    """Share of the teachers' signal; 1 uses references only for error rates and prefixes."""
    gold_weight: Annotated[float, Field(ge=0, le=1)] | GoldSchedule | None = None
    """Share of the references, 1 - alpha, said the other way round, or a schedule of it."""
    ctc_weight: float = Field(0.3, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    """Softens teachers (each, before fusing) and student alike, in the decoder part."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the supervised decoder part."""
    ctc_reduction: Literal["per_utterance", "per_label"] = "per_utterance"
    """`per_utterance`: mean over utterances of NLL / labels; `per_label`: NLL over all labels."""
    max_strings: int | None = Field(None, ge=1)
    """Keep only the heaviest label strings of an utterance; the dropped weight is reported."""
    empty_strings: Literal["skip", "keep"] = "skip"
    """An empty label string is skipped and the others renormalised, or trained on as all blank."""
    compatibility: Literal["none", "reference"] = "none"
    """`reference`: the formulas of the SpeechBrain TIMIT recipe, to repeat published figures."""
    selector: Selector = Never()
    """Which sentences are read with the student's own prefix."""
    beta: BetaSchedule | None = None
    """For selectors `beta` and `both`; null there: exponential, base 200, by update."""
    data_target: DataTarget = "distribution"
    rollout_target: RolloutTarget = "distribution"
    divergence: Divergence = "cross_entropy"
    """Where the target is a distribution."""
    top_k: int | None = Field(None, ge=1)
    """Learn the fused teachers' k likeliest tokens only, renormalised; only they are sent."""
    rollout: Rollout = Rollout()
    staleness: int = Field(0, ge=0)
    """Rollouts are made with weights this many updates old; 0: strictly on-policy."""
    aggrevate: Aggrevate | None = None
    """Experimental, with presets `aggrevate` and `aggrevate_policy_gradient`, and only there."""

    @property
    def learns_on(self) -> frozenset[Literal["data", "rollout"]]:
        """The kinds of prefix that the decoder's KD meets."""
        if self.selector.type == "never":
            return frozenset({"data"})
        if self.selector.type == "always":
            return frozenset({"rollout"})
        return frozenset({"data", "rollout"})

    @property
    def targets(self) -> frozenset[DataTarget]:
        """The kinds of target that the decoder's KD learns."""
        targets: set[DataTarget] = set()
        if "data" in self.learns_on:
            targets.add(self.data_target)
        if "rollout" in self.learns_on:
            targets.add(self.rollout_target)
        return frozenset(targets)

    @property
    def teachers_write(self) -> bool:
        """Whether teachers are asked for strings of their own during training."""
        return self.selector.type == "quality" or self.aggrevate is not None

    @property
    def fusing(self) -> Fusing:
        """What makes the divergence from the fused teachers teach as the mean of theirs does."""
        reverse = self.divergence == "reverse_kl" and "distribution" in self.targets
        return "geometric" if reverse else "mixture"

    @property
    def largest_alpha(self) -> float:
        """The teachers' share at its largest; 0 if they teach nothing in the whole run."""
        if isinstance(self.gold_weight, GoldSchedule):
            return 1.0 - min(self.gold_weight.start, self.gold_weight.final)
        return self.alpha

    @property
    def smallest_alpha(self) -> float:
        """The teachers' share at its smallest; 1 if references teach nothing in the whole run."""
        if isinstance(self.gold_weight, GoldSchedule):
            return 1.0 - max(self.gold_weight.start, self.gold_weight.final)
        return self.alpha

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Write what the preset and the gold weight mean into keys that were left out."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        gold = filled.get("gold_weight")
        if gold is not None and "alpha" not in filled:
            start = gold.get("start") if isinstance(gold, Mapping) else getattr(gold, "start", gold)
            with contextlib.suppress(TypeError, ValueError):
                filled["alpha"] = 1.0 - float(start)  # type: ignore[arg-type]
        info = PRESETS.get(filled.get("preset"))  # type: ignore[arg-type]
        if info is not None:
            selector = filled.get("selector", {})
            if isinstance(selector, Mapping):
                filled["selector"] = {"type": info.switches["selector"], **selector}
            for name, value in {**info.defaults, **info.switches}.items():
                filled.setdefault(name, value)
        loss = AGGREVATE_LOSSES.get(filled.get("preset"))  # type: ignore[arg-type]
        tried = filled.get("aggrevate") or {}
        if loss is not None and isinstance(tried, Mapping):
            filled["aggrevate"] = {"loss": loss, **tried}
        selector = filled.get("selector", {})
        kind = (
            selector.get("type")
            if isinstance(selector, Mapping)
            else getattr(selector, "type", None)
        )
        if kind in ("beta", "both") and filled.get("beta") is None:
            filled["beta"] = ExponentialBeta()
        return filled

    @model_validator(mode="after")
    def _the_preset_holds(self) -> Self:
        if self.preset is None:
            return self
        for name, meant in PRESETS[self.preset].switches.items():
            came = self.selector.type if name == "selector" else getattr(self, name)
            if came != meant:
                raise ValueError(
                    f"preset {self.preset!r} means {name} {meant!r}, but {name} is {came!r}; "
                    f"leave out one of the two, or take another preset"
                )
        return self

    @model_validator(mode="after")
    def _actions_are_all_that_is_learned(self) -> Self:
        loss = None if self.preset is None else AGGREVATE_LOSSES.get(self.preset)
        if self.aggrevate is None:
            return self
        if self.aggrevate.loss != loss:
            raise ValueError(
                f"aggrevate.loss is {self.aggrevate.loss!r} with preset {self.preset!r}; preset "
                "'aggrevate' means 'regression', 'aggrevate_policy_gradient' 'policy_gradient', "
                "and other presets have no section aggrevate"
            )
        unused = {
            "gold_weight": (self.gold_weight, None),
            "ctc_weight": (self.ctc_weight, 0.0),
            "temperature": (self.temperature, 1.0),
            "divergence": (self.divergence, "cross_entropy"),
            "top_k": (self.top_k, None),
            "staleness": (self.staleness, 0),
            "rollout.aggregate": (self.rollout.aggregate, False),
        }
        wrong = [
            f"{name} {came!r} instead of {meant!r}"
            for name, (came, meant) in unused.items()
            if came != meant
        ]
        if wrong:
            raise ValueError(
                f"preset {self.preset!r} learns the worth of fresh actions and nothing else, but "
                f"the section has {', '.join(wrong)}; leave these keys out"
            )
        return self

    @model_validator(mode="after")
    def _shares_agree(self) -> Self:
        if self.gold_weight is not None:
            gold = self.gold_weight
            start = gold.start if isinstance(gold, GoldSchedule) else gold
            if abs(self.alpha - (1.0 - start)) > 1e-9:
                raise ValueError(
                    f"alpha {self.alpha} and a gold_weight of {start} (at the start) do not sum "
                    "to 1; give one of them"
                )
        return self

    @model_validator(mode="after")
    def _switches_fit(self) -> Self:
        selector, hard = self.selector.type, sorted(self.targets - {"distribution"})
        soft = "distribution" in self.targets
        learned = ", ".join(map(repr, sorted(self.targets)))
        if self.beta is not None and selector not in ("beta", "both"):
            raise ValueError(
                f"beta is for selector 'beta' or 'both', and selector is {selector!r}; leave out "
                "beta, or change the selector"
            )
        if self.largest_alpha > 0 and self.ctc_weight < 1:
            if self.targets == {"own"} and self.ctc_weight == 0:
                raise ValueError(
                    "data_target 'own' with selector 'never' leaves teachers nothing to teach, "
                    f"but alpha is {self.alpha}; set alpha to 0 (preset 'nll'), or another target"
                )
            if self.temperature != 1.0 and hard:
                raise ValueError(
                    f"temperature {self.temperature} softens distributions, but the target "
                    f"{hard[0]!r} is one token; set temperature to 1, or the target to "
                    "'distribution'"
                )
        if not soft and (self.divergence != "cross_entropy" or self.top_k is not None):
            raise ValueError(
                f"divergence {self.divergence!r} and top_k {self.top_k} are for the target "
                f"'distribution', but what is learned is {learned}"
            )
        if self.top_k is not None and self.divergence in ("reverse_kl", "jsd"):
            raise ValueError(
                f"divergence {self.divergence!r} needs the teacher's probability of every token, "
                f"and top_k {self.top_k} keeps few; use cross_entropy or forward_kl, or leave out "
                "top_k"
            )
        if selector == "quality" and self.rollout.aggregate:
            raise ValueError(
                "rollout.aggregate with selector 'quality': a rollout is scored when it is made, "
                "and old ones would be read whatever they score; leave out one of the two"
            )
        engine = (selector, self.data_target, self.divergence, self.top_k)
        if self.compatibility == "reference" and engine != (
            "never",
            "distribution",
            "cross_entropy",
            None,
        ):
            raise ValueError(
                "compatibility 'reference' repeats a recipe with selector 'never', data_target "
                "'distribution', divergence 'cross_entropy' and no top_k; got "
                f"{', '.join(map(repr, engine))}"
            )
        return self
