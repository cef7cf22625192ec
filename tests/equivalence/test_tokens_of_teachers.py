"""A student that takes its teacher's tokens is the student that was given their file."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from tiny_runs import last_weights, run, train_lines

from kd_ray.commands.check import check
from kd_ray.config.load import ConfigError
from kd_ray.core.contracts import HandshakeError
from kd_ray.speech.tokens import SPECIALS, Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

FROM_TEACHER = {"type": "from_teacher"}
STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two experts whose tokens stand in another order than those of the corpus, one as they do."""
    root = tmp_path_factory.mktemp("tokens")
    tiny.make_corpus(root)
    path = root / "data" / "tokens.json"
    own = Tokens.load(path)
    head, tail = own.symbols[: len(SPECIALS)], own.symbols[len(SPECIALS) :]
    replace(own, symbols=(*head, *reversed(tail))).save(path)
    tiny.make_experts(root)
    (root / "experts").rename(root / "foreign")
    own.save(path)
    tiny.make_experts(root, 1)
    return root


def config(name, experts, tokens, **overrides):
    return tiny.distill_config(
        name, experts, data__tokens=tokens, model=STUDENT,
        distillation={"preset": "imitkd_full", "beta": {"type": "linear"},
                      "rollout": {"max_length": 6}},
        teachers__reads="phones", teachers__strategy={"type": "average"}, **overrides,
    )  # fmt: skip


def distil(root, wanted):
    source = LocalSource(load_teachers([root / folder for folder in wanted.teachers.list]))
    try:
        return run(wanted, root, source=source)
    finally:
        source.close()


def test_tokens_from_the_teacher_equal_the_path_to_its_own_file(root):
    experts = ["foreign/e0", "foreign/e1"]
    distil(root, config("by-type", experts, FROM_TEACHER))
    distil(root, config("by-path", experts, "foreign/e0/tokens.json"))
    first, second = (last_weights(root, name) for name in ("by-type", "by-path"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_lines(root, "by-type") == train_lines(root, "by-path")
    theirs = Tokens.load(root / "foreign" / "e0" / "tokens.json")
    assert Tokens.load(root / "runs" / "by-type" / "model" / "tokens.json") == theirs
    assert theirs != Tokens.load(root / "data" / "tokens.json")
    asked = json.loads((root / "runs" / "by-type" / "config.json").read_text())
    assert asked["data"]["tokens"] == FROM_TEACHER


def test_teachers_with_other_tokens_are_refused_with_the_ways_out(root):
    with pytest.raises(HandshakeError) as refused:
        distil(root, config("own", ["foreign/e0"], "data/tokens.json"))
    assert "data.tokens: {type: from_teacher}" in str(refused.value)
    assert "kd-ray translate" in str(refused.value)
    with pytest.raises(HandshakeError, match="teacher e0: token order"):
        distil(root, config("two-kinds", ["foreign/e1", "experts/e0"], FROM_TEACHER))


def test_check_reads_the_teachers_tokens(root):
    fine = check(config("checked", ["foreign/e0", "foreign/e1"], FROM_TEACHER), root)
    assert fine.ok, fine.problems
    mixed = check(config("mixed", ["foreign/e0", "experts/e0"], FROM_TEACHER), root)
    assert any("token order" in problem for problem in mixed.problems)
    nobody = check(config("nobody", ["nowhere"], FROM_TEACHER), root)
    assert any("nowhere does not exist" in problem for problem in nobody.problems)


def test_tokens_of_a_teacher_need_a_teacher():
    with pytest.raises(ConfigError, match=r"data\.tokens {type: from_teacher} is for `kd-ray dist"):
        tiny.train_config("alone", data__tokens=FROM_TEACHER)
    with pytest.raises(ConfigError, match=r"first teacher in teachers\.list, and that is left out"):
        config("store", None, FROM_TEACHER, teachers__source={"type": "store", "path": "store"})
    with pytest.raises(ConfigError, match=r"data\.tokens\.type: .*'from_teacher'"):
        config("typo", ["foreign/e0"], {"type": "teacher"})
