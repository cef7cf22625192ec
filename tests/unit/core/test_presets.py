"""Presets and switches of the distillation section."""

import typing

import pytest

from kd_ray.config import load
from kd_ray.config.imitation import (
    PRESETS,
    BetaPerSentence,
    ConstantBeta,
    ExponentialBeta,
    Preset,
    QualityGate,
    Rollout,
)
from kd_ray.config.teachers import Distillation
from kd_ray.core.criteria import DistillationCriterion


def test_every_preset_has_its_meaning():
    assert set(PRESETS) == set(typing.get_args(Preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_the_way_through_a_file_and_make_a_criterion(preset):
    config = Distillation(preset=preset)
    assert Distillation.model_validate_json(config.model_dump_json()) == config
    assert load.check_as(Distillation, config.model_dump(mode="json"), "run") == config
    assert config.ctc_weight == 0
    criterion = DistillationCriterion(config, blank=0, eos=2)
    assert ("kd_att" in criterion.weights) == (PRESETS[preset].teacher_reads != ())
    assert ("sup_att" in criterion.weights) != ("kd_att" in criterion.weights)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_switch_that_contradicts_the_preset_is_refused_with_both_values(preset):
    others = {
        "selector": ({"type": "never"}, {"type": "always"}),
        "data_target": ("own", "argmax"),
        "rollout_target": ("argmax", "distribution"),
        "alpha": (0.3, 0.4),
    }
    for name, meant in PRESETS[preset].switches.items():
        wrong = next(
            value
            for value in others[name]
            if (value["type"] if isinstance(value, dict) else value) != meant
        )
        shown = wrong["type"] if isinstance(wrong, dict) else wrong
        with pytest.raises(ValueError, match=f"preset '{preset}' means {name} {meant!r}.*{shown}"):
            Distillation(preset=preset, **{name: wrong})


def test_no_preset_is_what_there_was_before():
    config = Distillation()
    assert (config.preset, config.alpha, config.ctc_weight) == (None, 0.7, 0.3)
    assert config.targets == {"distribution"}
    assert config.learns_on == {"data"}
    assert config.beta is None


def test_what_a_preset_leaves_open_can_be_set():
    config = Distillation(
        preset="imitkd_full", beta={"type": "constant", "value": 0.5}, gold_weight=0.1, top_k=8
    )
    assert config.beta == ConstantBeta(value=0.5)
    assert config.alpha == pytest.approx(0.9)
    assert Distillation(preset="imitkd_full", alpha=0.8).alpha == 0.8
    assert Distillation(preset="word_kd_audio", ctc_weight=0.3).ctc_weight == 0.3
    gate = Distillation(preset="checked_prefix", selector={"threshold": 0.5, "metric": "chrf"})
    assert gate.selector == QualityGate(threshold=0.5, metric="chrf")
    star = Distillation(
        preset="imitkd_star", data_target="distribution", rollout_target="distribution"
    )
    assert star.targets == {"distribution"}


def test_beta_falls_from_one_to_a_two_hundredth_unless_said_otherwise():
    assert Distillation(selector=BetaPerSentence()).beta == ExponentialBeta()
    assert Distillation(selector={"type": "both"}).beta == ExponentialBeta(base=200, by="update")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selector": {"type": "beta"}, "rollout_target": "own"}, "'argmax' or 'distribution'"),
        ({"beta": {"type": "linear"}}, "beta is for selector 'beta' or 'both'.*'never'"),
        ({"alpha": 0.5, "gold_weight": 0.2}, "alpha 0.5 and a gold_weight of 0.2"),
        ({"data_target": "own", "ctc_weight": 0}, "nothing to teach, but alpha is 0.7"),
        ({"data_target": "argmax", "temperature": 2}, "softens distributions, .*'argmax'"),
        ({"data_target": "argmax", "divergence": "jsd"}, "divergence 'jsd' and top_k None are"),
        ({"data_target": "argmax", "top_k": 4}, "what is learned is 'argmax'"),
        ({"divergence": "reverse_kl", "top_k": 4}, "'reverse_kl' needs .* every token"),
        ({"compatibility": "reference", "top_k": 4}, "compatibility 'reference' repeats"),
        ({"rollout": {"top_k": 5}}, "for decoding 'sample', not 'greedy'"),
        ({"rollout": {"decoding": "beam"}}, "beam_size is needed for decoding 'beam'"),
        ({"rollout": {"beam_size": 4}}, "'greedy' with beam_size 4"),
        ({"selector": "beta"}, "selector"),
        ({"preset": "imitkd"}, "preset"),
        ({"gold_weight": {"start": "much", "final": 0}}, "gold_weight"),
    ],
)
def test_unlawful_pairs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**settings)


def test_lawful_rollouts():
    assert Rollout(decoding="sample", top_k=5, temperature=0.7).top_k == 5
    assert Rollout(decoding="beam", beam_size=4).beam_size == 4
