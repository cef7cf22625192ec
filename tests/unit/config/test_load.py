import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.commands import DistillConfig
from kd_ray.config.load import (
    ConfigError,
    apply_overrides,
    check,
    dump,
    load,
    merge,
    parse_overrides,
    read_yaml,
    root_folder,
)

DISTILL = """
command: distill
name: x
data: {train: a.parquet, valid: b.parquet, tokens: t.json}
teachers: {list: teachers.txt}
"""


def write(path, text):
    path.write_text(text)
    return path


def test_every_problem_is_in_one_error_with_a_hint(tmp_path):
    path = write(
        tmp_path / "c.yaml",
        DISTILL
        + "training: {epohcs: 3, lookahead: -1}\ndistillation: {alpha: 2, tempereture: 1}\n",
    )
    with pytest.raises(ConfigError) as caught:
        load(path, ["teachers.strategy={type: wieghted}", "teachers.source={type: pool, host: 2}"])
    text = str(caught.value)
    assert "c.yaml: 6 problems" in text
    assert "training.epohcs: no such key; did you mean 'epochs'?" in text
    assert "training.lookahead: got -1" in text
    assert "distillation.alpha: got 2" in text
    assert "distillation.tempereture: no such key; did you mean 'temperature'?" in text
    assert "teachers.strategy.type: got 'wieghted'" in text
    assert "did you mean 'weighted'?" in text
    assert "teachers.source.host: no such key; did you mean 'hosts'?" in text


def test_a_repeated_key_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path / "c.yaml", "command: train\nname: a\nname: b\n")
    with pytest.raises(ConfigError, match=r"'name' stands twice, in lines 2 and 3"):
        load(path)


def test_exponents_without_a_point_are_numbers(tmp_path):
    config = load(write(tmp_path / "c.yaml", DISTILL + "training: {optimizer: {lr: 1e-4}}\n"))
    assert config.training.optimizer.lr == 1e-4


def test_yaml_booleans_get_a_hint_to_quote(tmp_path):
    path = write(tmp_path / "c.yaml", DISTILL.replace("name: x", "name: no"))
    with pytest.raises(ConfigError, match="quote it"):
        load(path)


def test_infinity_and_nan_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="finite"):
        load(write(tmp_path / "c.yaml", DISTILL), ["training.optimizer.lr=.inf"])


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write(tmp_path / "c.yaml", DISTILL + "training: {epochs: 5, seed: 9}\n")
    config = load(path, ["training.epochs=7"])
    assert (config.training.epochs, config.training.seed, config.training.lookahead) == (7, 9, 1)


def test_an_override_of_another_type_starts_afresh(tmp_path):
    path = write(
        tmp_path / "c.yaml",
        DISTILL.replace(
            "{list: teachers.txt}", "{list: t.txt, strategy: {type: weighted, scale: 0.5}}"
        ),
    )
    assert load(path, ["teachers.strategy={type: average}"]).teachers.strategy.type == "average"
    assert load(path, ["teachers.strategy.scale=0.2"]).teachers.strategy.scale == 0.2


@pytest.mark.parametrize("override", ["training.epochs", "=3"])
def test_an_override_without_key_or_value_says_how_to_write_one(override):
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides([override])


def test_extends_merges_relative_to_its_file(tmp_path):
    (tmp_path / "parts").mkdir()
    write(
        tmp_path / "parts" / "data.yaml",
        "train: a\nvalid: b\ntokens: t\nbatches: {batch_size: 4}\n",
    )
    path = write(
        tmp_path / "c.yaml",
        "command: train\nname: x\ndata: {extends: parts/data.yaml, batches: {max_batch_s: 9}}\n",
    )
    config = load(path)
    assert config.data.batches.batch_size == 4
    assert config.data.batches.max_batch_s == 9


def test_extends_in_a_circle_is_refused(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        read_yaml(write(tmp_path / "b.yaml", "extends: a.yaml\n"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("name: x\n", "`command` is missing"),
        ("command: distil\n", "did you mean 'distill'"),
        ("- 1\n", "key: value"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path, content, match):
    with pytest.raises(ConfigError, match=match) as caught:
        load(write(tmp_path / "broken.yaml", content))
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_teachers_must_be_named_unless_a_store_knows_them(tmp_path):
    path = write(tmp_path / "c.yaml", DISTILL.replace("{list: teachers.txt}", "{}"))
    with pytest.raises(ConfigError, match="list must name at least one teacher"):
        load(path)
    assert load(path, ["teachers.source={type: store, path: s}"]).teachers.list is None


def test_a_loaded_configuration_cannot_be_changed(tmp_path):
    config = load(write(tmp_path / "c.yaml", DISTILL))
    with pytest.raises(ValueError, match="frozen"):
        config.name = "y"


@settings(max_examples=60, deadline=None)
@given(
    alpha=st.floats(0, 1),
    temperature=st.floats(0.1, 10),
    strategy=st.sampled_from(["average", "best", "weighted"]),
    epochs=st.integers(1, 100),
)
def test_what_is_dumped_loads_to_the_same(alpha, temperature, strategy, epochs):
    config = check(
        {
            "command": "distill",
            "name": "x",
            "data": {"train": "a", "valid": "b", "tokens": "c"},
            "teachers": {"list": ["t"], "strategy": {"type": strategy}},
            "distillation": {"alpha": alpha, "temperature": temperature},
            "training": {"epochs": epochs},
        },
        "test",
    )
    assert isinstance(config, DistillConfig)
    assert check(json.loads(dump(config)), "test") == config


@given(
    st.recursive(
        st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6
    )
)
def test_merging_nothing_changes_nothing(content):
    wrapped = {"key": content}
    assert merge(wrapped, {}) == wrapped
    assert merge({}, wrapped) == wrapped
    assert merge(wrapped, wrapped) == wrapped


def test_overrides_reach_into_sections_that_are_not_there():
    assert apply_overrides({}, {"a.b": 1, "a.c": {"d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}


def test_root_is_the_variable_or_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KD_RAY_ROOT", raising=False)
    assert root_folder() == tmp_path.resolve()
    monkeypatch.setenv("KD_RAY_ROOT", "/somewhere")
    assert str(root_folder()) == "/somewhere"


SPEECH = {"type": "speech_to_text"}
TEXT = {"type": "text_to_text"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": SPEECH}, r"loss.ctc_weight is 0.3.*speech_to_text.*or model.ctc to true"),
        ({"model": SPEECH, "loss": {"ctc_weight": 0}, "training": {"select_by": "ctc"}},
         "allowed: attention$"),
        ({"model": {**SPEECH, "ctc": True}, "training": {"select_by": "bleu"}},
         "allowed: attention or ctc"),
        ({"model": TEXT, "loss": {"ctc_weight": 0}}, "data.source_tokens is needed"),
        ({"loss": {"ctc_weight": 1}}, r"loss.ctc_weight is 1, so the decoder.*select_by to ctc"),
        ({"loss": {"ctc_weight": 0}, "training": {"select_by": "ctc"}},
         "the CTC head learns nothing.*raise loss.ctc_weight, or set training.select_by to att"),
    ],
)  # fmt: skip
def test_what_an_architecture_cannot_have_is_refused(changes, words):
    content = {
        "command": "train",
        "name": "x",
        "data": {"train": "t.parquet", "valid": "v.parquet", "tokens": "t.json"},
    }
    with pytest.raises(ConfigError, match=words):
        check({**content, **changes}, "test")


def test_translations_are_selected_by_translation_scores():
    content = {
        "command": "train",
        "name": "x",
        "data": {"train": "t", "valid": "v", "tokens": "t.json", "column": "translation"},
        "model": SPEECH,
        "loss": {"ctc_weight": 0},
    }
    with pytest.raises(ConfigError, match=r"select_by is 'attention'.*allowed: bleu or chrf\+\+"):
        check(content, "test")
    check({**content, "training": {"select_by": "chrf++"}}, "test")
