"""Writing: greedy, sampling and beam by the attention decoder, greedy by the CTC head."""

from kd_ray.models.decoding.beam import BeamHypothesis, attention_beam
from kd_ray.models.decoding.ctc import ctc_collapse, ctc_greedy, finite_rows
from kd_ray.models.decoding.finite import NotFinite
from kd_ray.models.decoding.single import attention_greedy, attention_sample

__all__ = [
    "BeamHypothesis",
    "NotFinite",
    "attention_beam",
    "attention_greedy",
    "attention_sample",
    "ctc_collapse",
    "ctc_greedy",
    "finite_rows",
]
