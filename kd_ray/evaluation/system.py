"""A trained model with all it needs to hear and to write: weights, tokens, front end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.data import TextColumn
from kd_ray.config.evaluation import Head
from kd_ray.evaluation.decode import Hypothesis, Input, Search, decode_encoded
from kd_ray.models.checkpoint import WEIGHTS, load_model, original_name, standing
from kd_ray.models.encoders import Encoded
from kd_ray.models.sequence_model import SequenceModel, SpeechModel
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens, TokensError, source_ids
from kd_ray.storage import fetch, fetch_folder, matches, shown


class UnusableSystem(ValueError):
    """A checkpoint, run folder, teacher list or split that cannot be used for what is asked."""


@dataclass(frozen=True, eq=False)
class System:
    """A frozen model in evaluation mode: recogniser, speech translator or text translator."""

    model: SequenceModel
    tokens: Tokens
    extractor: LogMelExtractor | None
    """Of models that read speech."""
    folder: Path
    digest: str
    name: str
    device: torch.device
    source_tokens: Tokens | None = None
    """Of models that read text."""
    reads_column: str = "transcript"
    """Manifest column that a model reads which reads text."""

    @property
    def reads(self) -> Literal["speech", "text"]:
        """What the model hears or reads."""
        return self.model.reads

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def bytes(self) -> int:
        """Size of the checkpoint folder on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @property
    def folders(self) -> tuple[Path, ...]:
        """Checkpoint folders of all models that take part."""
        return (self.folder,)

    def require(self, head: Head) -> None:
        """Refuse a way of decoding that the model does not have.

        Raises:
            UnusableSystem: CTC without a CTC head.
        """
        if head == "ctc" and not self.model.has_ctc:
            raise UnusableSystem(
                f"{self.folder} has no CTC head, so it cannot be decoded by ctc; set decoding to "
                "attention or beam"
            )

    @torch.inference_mode()
    def encode(self, inputs: Tensor, lengths: Tensor, masked: Tensor | None = None) -> Encoded:
        """Encoder states of un-normalised features (B, T, F), or of source ids (B, S).

        `masked` (B, T, F) is true on features that are hidden: zero, once normalised.
        """
        inputs, lengths = inputs.to(self.device), lengths.to(self.device)
        normalized = self.model.normalize(inputs, lengths)
        if masked is not None:
            normalized = normalized.masked_fill(masked.to(self.device), 0.0)
        return self.model.encode(normalized, lengths)

    @torch.inference_mode()
    def encode_waveforms(self, waveforms: Sequence[NDArray[np.int16]]) -> Encoded:
        """Mono 16 kHz waveforms to encoder states.

        Raises:
            UnusableSystem: the model reads text.
        """
        if self.extractor is None:
            raise UnusableSystem(f"{self.folder} reads text, not speech")
        return self.encode(*self.extractor(waveforms))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Texts to encoder states.

        Raises:
            UnusableSystem: the model reads speech, or its tokens cannot spell a text.
        """
        if self.source_tokens is None:
            raise UnusableSystem(f"{self.folder} reads speech, not text")
        try:
            ids = [torch.tensor(source_ids(self.source_tokens, text)) for text in texts]
        except TokensError as error:
            raise UnusableSystem(f"{self.folder} cannot read a text: {error}") from error
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.nn.utils.rnn.pad_sequence(
            ids, batch_first=True, padding_value=self.model.eos
        )
        return self.encode(padded, lengths)

    def read_inputs(self, rows: Sequence[Utterance], root: Path) -> list[Input]:
        """Waveforms of utterances, or the texts in `reads_column`.

        Raises:
            UnusableSystem: a row has nothing to read; an empty text is something.
        """
        if self.reads == "speech":
            return [read_waveform(row, root) for row in rows]
        texts = [text_of(row, self.reads_column) for row in rows]
        without = [row.id for row, text in zip(rows, texts, strict=True) if text is None]
        if without:
            raise UnusableSystem(
                f"{self.folder} reads text, and {len(without)} of {len(rows)} utterances have no "
                f"{self.reads_column}: {some(without)}; name another manifest or reads_column"
            )
        return [text or "" for text in texts]

    def encode_inputs(self, rows: Sequence[Utterance], root: Path) -> Encoded:
        """Encoder states of utterances: of their speech, or of the text in `reads_column`."""
        return self._encode(self.read_inputs(rows, root))

    def _encode(self, inputs: Sequence[Input]) -> Encoded:
        if self.reads == "speech":
            return self.encode_waveforms(cast(Sequence[NDArray[np.int16]], inputs))
        return self.encode_texts(cast(Sequence[str], inputs))

    def decode_inputs(
        self, inputs: Sequence[Input], utterance_ids: Sequence[str], search: Search
    ) -> list[Hypothesis]:
        """Hypotheses of one batch.

        An empty text has an empty hypothesis: what a model makes of nothing is its own invention.
        """
        full = [row for row, each in enumerate(inputs) if not isinstance(each, str) or each.strip()]
        found: dict[str, Hypothesis] = {}
        if full:
            encoded = self._encode([inputs[row] for row in full])
            ids = [utterance_ids[row] for row in full]
            decoded = decode_encoded(self.model, encoded, ids, search)
            found = {hypothesis.utterance_id: hypothesis for hypothesis in decoded}
        nothing: dict[Head, tuple[int, ...]] = dict.fromkeys(search.heads, ())
        return [found.get(name) or Hypothesis(name, nothing) for name in utterance_ids]


def text_of(row: Utterance, column: str) -> str | None:
    """The text in a column of the manifest, of its own or another; None where the row has none."""
    if column in get_args(TextColumn):
        return row.text(cast(TextColumn, column))
    value = row.extra.get(column)
    return None if value is None else str(value)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, for an error."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def load_system(
    folder: Path, device: str | torch.device = "cpu", *, reads_column: str = "transcript"
) -> System:
    """Load a checkpoint folder, or the best model of a run folder."""
    checkpoint = resolve_checkpoint(folder)
    loaded = load_model(checkpoint, device=str(device))
    source = loaded.source_tokens
    return System(
        model=loaded.model,
        tokens=Tokens.from_dict(loaded.tokens),
        extractor=(
            LogMelExtractor(loaded.model.config.front_end)
            if isinstance(loaded.model, SpeechModel)
            else None
        ),
        folder=checkpoint,
        digest=loaded.digest,
        name=system_name(checkpoint),
        device=torch.device(device),
        source_tokens=None if source is None else Tokens.from_dict(source),
        reads_column=reads_column,
    )


def resolve_checkpoint(folder: Path) -> Path:
    """A checkpoint folder itself, or `model/` of a run folder.

    Where a run was killed while it replaced one of them, the older one that it had moved aside: the
    folder in which the files are, since not every reader looks for them elsewhere.
    """
    asked, folder = folder, fetch_folder(folder, only=_of_checkpoint)
    for place in (standing(folder), standing(folder / "model")):
        if (place / WEIGHTS).exists():
            return place
    if (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
        raise UnusableSystem(
            f"{folder} is a run folder without a model yet: its training has not reached its "
            "first validation; let it run on"
        )
    if not folder.exists():
        raise UnusableSystem(
            f"{shown(asked)} does not exist; expected a checkpoint folder (with model.safetensors) "
            "or a run folder"
        )
    # Foreign checkpoints get the message that names the way out.
    return folder


def _of_checkpoint(name: str) -> bool:
    """Of a run folder's files: those of the folder itself, and of its best model."""
    return "/" not in name.removeprefix("model/")


def system_name(checkpoint: Path) -> str:
    """What a system is called in tables: its run's name."""
    name = original_name(checkpoint)
    return checkpoint.parent.name if name == "model" else name


def read_teacher_list(spec: str | Sequence[str], root: Path) -> list[Path]:
    """Checkpoint folders of a teacher list, in order.

    `spec` is a text file (one folder or glob a line; blank lines and `#` comments are fine) or a
    sequence of folders or globs. Relative paths start at `root`. A path that does not exist is an
    error that names its line; a folder named twice is refused.
    """
    if isinstance(spec, str):
        path = root / spec
        try:
            lines = fetch(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UnusableSystem(f"teacher list {shown(path)}: {error.strerror}") from error
        places = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]
    else:
        places = [(f"teacher list, entry {number}", line) for number, line in enumerate(spec, 1)]
    found: dict[Path, str] = {}
    for place, line in places:
        pattern = line.split("#", 1)[0].strip()
        if not pattern:
            continue
        folders = matches(root, pattern)
        if not folders and (aside := standing(root / pattern)).is_dir():
            folders = [aside]
        if not folders:
            raise UnusableSystem(f"{place}: {pattern} does not exist (looked in {shown(root)})")
        for folder in map(resolve_checkpoint, folders):
            if folder in found:
                raise UnusableSystem(f"{place}: {folder} is already named in {found[folder]}")
            found[folder] = place
    if not found:
        raise UnusableSystem(f"teacher list {spec!r} names no teacher")
    return list(found)
