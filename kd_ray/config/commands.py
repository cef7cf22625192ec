"""One section per command: what `kd-ray COMMAND CONFIG` reads."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.bench import (
    BenchPoolConfig,
    BenchRolloutsConfig,
    BenchSoakConfig,
    BenchSparseConfig,
    what,
)
from kd_ray.config.data import (
    AudioChecks,
    Corpus,
    Data,
    TextColumn,
    TokensFromTraining,
    TokenSource,
)
from kd_ray.config.evaluation import CompareConfig, DecodeConfig, EvaluateConfig, ReportConfig
from kd_ray.config.generation import TranscribeConfig, TranslateConfig
from kd_ray.config.imitation import PRESETS
from kd_ray.config.model import Model, Recognizer, SpeechToText, TextToText
from kd_ray.config.placing import PlacedActors
from kd_ray.config.pool import PoolConfig
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import Computation
from kd_ray.config.teachers import Distillation, Teachers
from kd_ray.config.training import Supervised, Training, Workers

InventoryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class PrepareConfig(Section):
    """`kd-ray prepare`: manifests and tokens from a corpus."""

    command: Literal["prepare"]
    folder: str
    """Where manifests, audio and token file are written."""
    corpus: Corpus
    tokens: TokenSource = TokensFromTraining()
    """What `tokens.json` holds."""
    inventories: dict[InventoryName, TokenSource] = Field(default_factory=dict)
    """Further token files by name: `tokens_<name>.json` beside `tokens.json`."""
    checks: AudioChecks = AudioChecks()
    max_train_duration_s: float | None = Field(None, gt=0)
    """Longer utterances of the training split are left out, whatever `on_bad_row` says."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    shard_mib: float | None = Field(None, gt=0)
    """Pack audio files, as they are, into tar shards of this size; null: they stay where they are.
    A few hundred MiB suit object stores and network disks."""


def _check_model(
    model: Model, data: Data, training: Training, ctc_weight: float, where: str
) -> None:
    """Refuse a loss, tokens or a choice of the best model that the architecture cannot have."""
    has_ctc = isinstance(model, Recognizer) or (isinstance(model, SpeechToText) and model.ctc)
    if ctc_weight > 0 and not has_ctc:
        more = ", or model.ctc to true" if isinstance(model, SpeechToText) else ""
        raise ValueError(
            f"{where} is {ctc_weight:g}, and this {model.type} model has no CTC head; set "
            f"{where} to 0{more}"
        )
    if isinstance(model, TextToText) and data.source_tokens is None:
        raise ValueError(
            f"data.source_tokens is needed: a text_to_text model reads {data.source_column}, whose "
            "token file `kd-ray prepare` makes (inventories)"
        )
    translates, scored = data.column == "translation", training.select_by in ("bleu", "chrf++")
    if translates != scored or (training.select_by == "ctc" and not has_ctc):
        allowed = "bleu or chrf++" if translates else "attention" + " or ctc" * has_ctc
        raise ValueError(
            f"training.select_by is {training.select_by!r}; with data.column {data.column!r} and "
            f"this model, allowed: {allowed}"
        )
    # What learns nothing says nothing about the model.
    if training.select_by != "ctc" and ctc_weight == 1.0:
        other = "" if translates else ", or set training.select_by to ctc"
        raise ValueError(
            f"{where} is 1, so the decoder learns nothing, and training.select_by "
            f"{training.select_by!r} would choose the model by it; lower {where}{other}"
        )
    if training.select_by == "ctc" and ctc_weight == 0.0:
        raise ValueError(
            f"{where} is 0, so the CTC head learns nothing, and training.select_by 'ctc' would "
            f"choose the model by it; raise {where}, or set training.select_by to attention"
        )


def _check_tokens(data: Data, teachers: Teachers | None) -> None:
    """Refuse tokens of a teacher where none is named."""
    if isinstance(data.tokens, str) or (teachers is not None and teachers.list):
        return
    if teachers is None:
        raise ValueError(
            "data.tokens {type: from_teacher} is for `kd-ray distill`: here is no teacher to take "
            "tokens from; name a token file (tokens.json of a checkpoint folder is one)"
        )
    raise ValueError(
        "data.tokens {type: from_teacher} takes the tokens of the first teacher in teachers.list, "
        "and that is left out; name the teachers, or a token file"
    )


class TrainConfig(Section):
    """`kd-ray train`: a model from references alone."""

    command: Literal["train"]
    name: Name
    data: Data
    model: Model = Recognizer()
    loss: Supervised = Supervised()
    training: Training = Training()
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        _check_tokens(self.data, None)
        _check_model(self.model, self.data, self.training, self.loss.ctc_weight, "loss.ctc_weight")
        return self


class TeacherOverrides(Section):
    """One teacher: a name and what differs from the base."""

    name: Name
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the base, e.g. `model.encoder.rnn_size: 96`."""


class TrainTeachersConfig(Section):
    """`kd-ray train-teachers`: N models from one base and a list of overrides, in parallel."""

    command: Literal["train-teachers"]
    name: Name
    base: TrainConfig
    teachers: tuple[TeacherOverrides, ...] = Field(min_length=1)
    max_parallel: int | None = Field(None, ge=1)
    """Trainings at a time; null: as many as the CPUs of the machine of the command; on a cluster
    set it to the number that fits."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teachers must have different names; used twice: {', '.join(twice)}")
        return self


class InferTeachersConfig(Computation, PlacedActors):
    """`kd-ray infer-teachers`: the teachers' outputs into a Parquet target store."""

    command: Literal["infer-teachers"]
    store: str
    """Folder of the target store."""
    teachers: str | tuple[str, ...]
    """As `teachers.list` of a distillation."""
    splits: dict[str, str]
    """Split name to manifest."""
    tokens: str
    column: TextColumn = "phones"
    dtype: Literal["float32", "float16"] = "float32"
    top_k: int | None = Field(None, ge=1)
    """Keep only the k likeliest tokens a position and teacher (an approximation under fusion)."""
    shard_utterances: int = Field(128, ge=1)
    batch_size: int = Field(16, ge=1)
    actors: int = Field(1, ge=1)
    teachers_per_actor: int = Field(8, ge=1)
    """Teachers resident at a time; a longer list is worked off in groups."""

    @model_validator(mode="after")
    def _actors_can_compute_so(self) -> Self:
        if self.precision == "float16" and not self.gpus_per_actor:
            raise ValueError(
                "precision 'float16' needs a GPU, and gpus_per_actor is 0; take 'bfloat16', or "
                "give actors a GPU"
            )
        return self


class DistillConfig(Section):
    """`kd-ray distill`: a student from teachers."""

    command: Literal["distill"]
    name: Name
    data: Data
    model: Model = Recognizer()
    teachers: Teachers
    distillation: Distillation = Distillation()
    training: Training = Training()
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        _check_tokens(self.data, self.teachers)
        _check_model(
            self.model, self.data, self.training, self.distillation.ctc_weight,
            "distillation.ctc_weight",
        )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _teachers_are_there_to_write(self) -> Self:
        if self.distillation.teachers_write and self.teachers.source.type == "store":
            raise ValueError(
                "teachers.source.type is 'store', and selector 'quality' and the presets of "
                "aggrevate need teachers that write during training; take 'local' or 'pool'"
            )
        return self

    @model_validator(mode="after")
    def _there_is_a_view_to_share(self) -> Self:
        if self.teachers.view == "clean":
            return self
        reasons = {
            "data.augment is null, so the student itself hears the audio as it is": (
                self.data.augment is None
            ),
            "a text_to_text student reads text, which is not masked": isinstance(
                self.model, TextToText
            ),
            "teachers.source.type is 'store', whose answers are to the audio as it is (take "
            "'local' or 'pool')": self.teachers.source.type == "store",
            "in the presets of aggrevate teachers only write, to the audio as it is, as the "
            "student's rollouts are": self.distillation.aggrevate is not None,
        }
        against = [reason for reason, holds in reasons.items() if holds]
        if against:
            raise ValueError(
                f"teachers.view is 'student', but {'; and '.join(against)}; otherwise set "
                "teachers.view to 'clean'"
            )
        return self

    @model_validator(mode="after")
    def _the_preset_knows_what_teachers_read(self) -> Self:
        preset, reads = self.distillation.preset, self.teachers.reads
        if preset is None or reads != "asr_transcript":
            return self
        allowed = PRESETS[preset].teacher_reads
        if reads not in allowed:
            raise ValueError(
                f"teachers.reads is {reads!r}, but in preset {preset!r} teachers read "
                f"{' or '.join(map(repr, allowed)) or 'nothing'}; take 'kd_transcripts' or "
                "'imitkd_transcripts', or leave the preset out"
            )
        return self


class ReplayConfig(Section):
    """`kd-ray replay`: an update whose loss or gradient was not finite, taken again."""

    command: Literal["replay"]
    folder: str
    """`failed_updates/update-...` of a run; its `replay.yaml` names it."""


class BenchStepConfig(Section):
    """`kd-ray bench step`: what a distillation step costs against a supervised one."""

    command: Literal["bench"]
    what: Literal["step"] = "step"
    name: Name = "bench/step"
    data: Data
    model: Model = Recognizer()
    teachers: Teachers
    distillation: Distillation = Distillation()
    teacher_counts: tuple[int, ...] = (1, 10)
    warmup: int = Field(3, ge=0)
    repeats: int = Field(15, ge=1)
    threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _tokens_are_named(self) -> Self:
        _check_tokens(self.data, self.teachers)
        return self


CommandConfig = Annotated[
    PrepareConfig
    | TrainConfig
    | TrainTeachersConfig
    | InferTeachersConfig
    | DistillConfig
    | EvaluateConfig
    | DecodeConfig
    | CompareConfig
    | ReportConfig
    | RecipeConfig
    | StudyConfig
    | SearchConfig
    | Annotated[
        Annotated[BenchStepConfig, Tag("step")]
        | Annotated[BenchRolloutsConfig, Tag("rollouts")]
        | Annotated[BenchSparseConfig, Tag("sparse")]
        | Annotated[BenchPoolConfig, Tag("pool")]
        | Annotated[BenchSoakConfig, Tag("soak")],
        Discriminator(what),
    ]
    | ReplayConfig
    | PoolConfig
    | TranscribeConfig
    | TranslateConfig,
    Field(discriminator="command"),
]
