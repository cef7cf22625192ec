"""Sections about corpora, manifests, tokens, features and batches."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from kd_ray.config.base import Section

Unit = Literal["phones", "words", "characters", "sentencepiece"]
"""What one token is. `phones` and `words` split the text at white space; `sentencepiece` trains a
unigram model."""

TextColumn = Literal["phones", "transcript", "translation"]
"""The manifest column that a model learns to write."""


class LogMel(Section):
    """Kaldi-compatible log-mel filterbank (torchaudio), 16 kHz mono audio, without dither."""

    type: Literal["log_mel"] = "log_mel"
    num_mels: int = Field(40, ge=8)
    frame_length_ms: float = Field(25.0, gt=0)
    frame_shift_ms: float = Field(10.0, gt=0)
    low_hz: float = Field(20.0, ge=0)
    high_hz: float = Field(7600.0, gt=0, le=8000)
    snip_edges: bool = False
    """Only frames that lie wholly inside the signal, as Kaldi's default and fairseq have it."""


Accent = Literal[
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
]
"""Accents of espeak-ng; `en` is British."""


class DemoCorpus(Section):
    """The corpus that kd_ray makes itself: a bilingual grammar spoken by espeak-ng."""

    type: Literal["demo"] = "demo"
    seed: int = Field(1, ge=0)
    train_utterances: int = Field(900, ge=1)
    valid_utterances: int = Field(120, ge=1)
    test_utterances: int = Field(160, ge=1)
    unlabelled_utterances: int = Field(100, ge=0)
    text_only_sentences: int = Field(3000, ge=0)
    """Sentence pairs without speech, for a text translation expert."""
    train_speakers: int = Field(40, ge=1)
    valid_speakers: int = Field(8, ge=1)
    test_speakers: int = Field(12, ge=1)
    unlabelled_speakers: int = Field(10, ge=1)
    """Speakers (voice, pitch, speed, accent) are disjoint between the splits."""
    max_words: int = Field(7, ge=3)
    """Longest English sentence, in words; short sentences keep a first run quick."""
    vocabulary: int | None = Field(None, ge=50)
    """Only sentences of this many most frequent English words; null: of all (about 1,100)."""
    accents: tuple[Accent, ...] | None = Field(None, min_length=1)
    """Accents of all speakers, equally often; null: eight, American ones most often."""
    snr_db: tuple[float, float] = (15.0, 35.0)
    """Additive noise: signal-to-noise ratio drawn uniformly from this range, in dB."""
    reverberation: float = Field(0.2, ge=0, le=1)
    """Share of utterances that get a room; 0 is dry speech throughout."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db must be [low, high], got {list(self.snr_db)}")
        return self


class ManifestCorpus(Section):
    """Manifests that exist already; `prepare` checks every row and makes the tokens."""

    type: Literal["manifest"] = "manifest"
    train: str
    valid: str
    test: str | None = None
    unlabelled: str | None = None
    text_only: str | None = None
    """Sentence pairs without speech."""


class LhotseCorpus(Section):
    """Cuts or recordings + supervisions written by a lhotse recipe (`lhotse prepare ...`)."""

    type: Literal["lhotse"] = "lhotse"
    train: str
    """A cuts manifest (`*_cuts.jsonl.gz`); likewise for the other splits."""
    valid: str
    test: str | None = None
    phones_key: str | None = None
    """Name of the supervision's custom field or alignment that holds the phones, if any."""
    target_language: str | None = None
    """Which translation to take where there are several."""


class MustC(Section):
    """MuST-C through lhotse's recipe: English talks with translations."""

    type: Literal["must_c"] = "must_c"
    folder: str
    """The release: the folder that holds `en-de/data`."""
    target_language: str = "de"


class TedLium(Section):
    """TED-LIUM 3 (its `legacy` distribution) through lhotse's recipe: English talks."""

    type: Literal["tedlium"] = "tedlium"
    folder: str
    """The release: the folder that holds `legacy`."""


class Covost(Section):
    """CoVoST 2: translations of Common Voice."""

    type: Literal["covost"] = "covost"
    folder: str
    """Holds `covost_v2.en_de.{train,dev,test}.tsv`, or `covost_v2.en_de.tsv` for all splits."""
    common_voice: str
    """Common Voice's folder of the source language: `validated.tsv` and `clips/`."""
    source_language: str = "en"
    target_language: str = "de"


class EuroparlSt(Section):
    """Europarl-ST: speeches of the European Parliament with translations."""

    type: Literal["europarl_st"] = "europarl_st"
    folder: str
    """The release: the folder that holds `en/audios` and `en/de/train`."""
    source_language: str = "en"
    target_language: str = "de"
    noisy: bool = False
    """Add the split `train-noisy` to the training split (`domain` tells them apart)."""


class TextPair(Section):
    """Two text files, line by line."""

    source: str
    target: str


class ParallelText(Section):
    """Sentence pairs without speech, for a translation expert."""

    type: Literal["parallel_text"] = "parallel_text"
    train: TextPair
    valid: TextPair
    test: TextPair | None = None
    source_language: str = "en"
    target_language: str = "de"


class FairseqSpeech(Section):
    """fairseq speech-to-text data as they lie on disk; features are used as they are."""

    type: Literal["fairseq_s2t"] = "fairseq_s2t"
    folder: str
    """Holds the tables `<split>.tsv` and the configuration."""
    config: str
    """Name of the data configuration (YAML)."""
    train: str
    """Name of a table, with or without `.tsv`; likewise for the other splits."""
    valid: str
    test: str | None = None
    target_column: Literal["transcript", "translation"] = "translation"
    """What `tgt_text` is; `src_text`, where there is one, is the transcript."""
    source_language: str = "en"
    target_language: str = "de"
    front_end: LogMel = LogMel(num_mels=80, high_hz=8000.0, snip_edges=True)
    """The front end that made the features: students and teachers that read them need the same."""


Corpus = Annotated[
    DemoCorpus
    | ManifestCorpus
    | LhotseCorpus
    | MustC
    | TedLium
    | Covost
    | EuroparlSt
    | ParallelText
    | FairseqSpeech,
    Field(discriminator="type"),
]


class TokensFromTraining(Section):
    """Collect the symbols from the training split: phones, words, characters or pieces."""

    type: Literal["train"] = "train"
    unit: Unit = "phones"
    column: TextColumn = "phones"
    size: int | None = Field(None, ge=1)
    """Pieces that `sentencepiece` learns; 3 special tokens and 256 bytes come on top."""
    splits: tuple[str, ...] = Field(("train",), min_length=1)
    """Splits whose texts are used; rows without the text are passed over."""

    @model_validator(mode="after")
    def _size_goes_with_sentencepiece(self) -> Self:
        if (self.unit == "sentencepiece") != (self.size is not None):
            raise ValueError(
                f"unit {self.unit} with size {self.size}: size is for the unit sentencepiece, "
                "which needs it"
            )
        return self


class TokensFromFairseq(Section):
    """Take over a fairseq dictionary, in its order, behind kd_ray's special tokens and `<unk>`."""

    type: Literal["fairseq"]
    dictionary: str
    """`dict.txt`, or the `.txt` beside a SentencePiece model."""
    sentencepiece_model: str | None = None
    """The model that cuts texts into the dictionary's pieces; null: its entries are words."""
    column: TextColumn = "translation"


def _type(value: Any) -> str:
    """`train` where nothing is said."""
    chosen = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "train" if chosen is None else str(chosen)


TokenSource = Annotated[
    Annotated[TokensFromTraining, Tag("train")] | Annotated[TokensFromFairseq, Tag("fairseq")],
    Discriminator(_type),
]


class TokensFromTeacher(Section):
    """The target tokens and special ids of the first teacher of the list."""

    type: Literal["from_teacher"]


def _kind_of_token_file(value: Any) -> str:
    """A path, unless it is a section."""
    return "from_teacher" if isinstance(value, dict | Section) else "path"


TokenFile = Annotated[
    Annotated[str, Tag("path")] | Annotated[TokensFromTeacher, Tag("from_teacher")],
    Discriminator(_kind_of_token_file),
]


class AudioChecks(Section):
    """When a row is bad. Durations in seconds."""

    min_duration_s: float = Field(0.1, gt=0)
    max_duration_s: float = Field(60.0, gt=0)


class SpecAugment(Section):
    """Time and frequency masks (Park et al. 2019), drawn anew per (seed, utterance, epoch)."""

    time_masks: int = Field(2, ge=0)
    max_time_s: float = Field(0.15, ge=0)
    """Longest time mask, in seconds."""
    max_time_share: float = Field(0.2, ge=0, le=1)
    """Longest time mask, as a share of the utterance."""
    frequency_masks: int = Field(2, ge=0)
    max_frequency: float = Field(0.2, ge=0, le=1)
    """Widest frequency mask, as a fraction of the mel axis."""


class Batches(Section):
    """How utterances become global batches: a function of (seed, update) alone."""

    batch_size: int = Field(16, ge=1)
    """Utterances in one update, over all workers and micro-batches."""
    max_batch_s: float | None = Field(None, gt=0)
    """Longest sum of padded durations in one update, in seconds; null: no limit."""
    bucket_batches: int = Field(20, ge=1)
    """Utterances are sorted by duration within shuffled buckets of this many batches."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What a bad row of the manifest does; `skip` lists what was left out."""


class Data(Section):
    """What a model learns from."""

    train: str
    """Manifest (Parquet) of the training split; relative paths start at the root."""
    valid: str
    tokens: TokenFile
    """Token file made by `kd-ray prepare`; or, with teachers, `{type: from_teacher}`."""
    column: TextColumn = "phones"
    """What the model learns to write."""
    source_column: TextColumn = "transcript"
    """What a model of type text_to_text reads."""
    source_tokens: str | None = None
    """Token file of `source_column`, for such a model."""
    batches: Batches = Batches()
    augment: SpecAugment | None = SpecAugment()
    """The student's own augmentation of its features; null: none."""
    cache_gib: float = Field(2.0, ge=0)
    """Waveforms and features that each worker keeps in memory, in GiB."""
