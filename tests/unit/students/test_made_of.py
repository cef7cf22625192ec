"""What a run goes on with: other data, tokens or teachers than its checkpoint's are refused."""

import json
from dataclasses import replace

import pytest
import tiny
import torch

from kd_ray.config.training import Constant
from kd_ray.core.schedules import Schedule
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import SPECIALS, Tokens
from kd_ray.students.checkpoints import TrainingCheckpoints
from kd_ray.students.collective import Alone
from kd_ray.students.materials import Inventories, new_model
from kd_ray.students.saving import Saver, made_of

ROWS = [Utterance("u1", audio="a.flac", duration_s=1.0, phones="a b")]
OTHER_ROWS = [replace(ROWS[0], phones="b a")]
TARGET, SOURCE = Tokens.train(["a b d"], "phones"), Tokens.train(["hello you"], "words")
PERMUTED = Tokens("phones", (*SPECIALS, "d", "b", "a"))
LARGER = Tokens.train(["a b d e"], "phones")


@pytest.fixture
def saver(tmp_path):
    return saver_of(tmp_path)


def saver_of(root, *, target=TARGET, source=SOURCE, train=ROWS, valid=ROWS):
    """Of a run of one worker; models of the same tokens have the same weights."""
    torch.manual_seed(1)
    model = new_model(tiny.train_config("made-of"), Inventories(target))
    run = RunFolder(root, "made-of")
    return Saver(
        run, TrainingCheckpoints(run.path / "checkpoints", 2), model,
        torch.optim.SGD(model.parameters(), lr=0.1), Schedule(Constant(), 10),
        Inventories(target, source), Alone(), None, made_of(train, valid, None), averages=False,
    )  # fmt: skip


def save(saver, **state):
    """A checkpoint of update 3; a key of `state` that is None is left out."""
    content = {
        "update": 3,
        "progress": {"update": 3, "statistics": {}, "costs": {}},
        "schedule": saver.schedule.to_dict(),
        "made_of": saver._digests,
    } | state
    return saver.checkpoints.save(
        saver.model, saver.optimizer, tokens=saver.inventories.target.to_dict(),
        state={key: value for key, value in content.items() if value is not None},
    )  # fmt: skip


def test_a_run_goes_on_with_what_it_was_made_of(saver, tmp_path):
    save(saver)
    assert saver_of(tmp_path).restore()[0].update == 3


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"target": PERMUTED}, r"tokens \(data\.tokens\): digest "),
        ({"target": LARGER}, r"tokens \(data\.tokens\): digest "),
        ({"source": TARGET}, r"source tokens \(data\.source_tokens\): digest "),
        ({"train": OTHER_ROWS}, r"training manifest \(data\.train\): digest "),
        ({"valid": OTHER_ROWS}, r"validation manifest \(data\.valid\): digest "),
    ],
    ids=["permuted", "larger", "source", "train", "valid"],
)
def test_nothing_else_is_gone_on_with(saver, tmp_path, other, named):
    save(saver)
    changed = saver_of(tmp_path, **other)
    fresh = {name: value.clone() for name, value in changed.model.state_dict().items()}
    with pytest.raises(RunFolderError, match=rf"made of other things:\n  {named}.*\nBring them"):
        changed.restore()
    # It is refused before anything of it is loaded.
    assert all(
        torch.equal(value, fresh[name]) for name, value in changed.model.state_dict().items()
    )


@pytest.mark.parametrize(
    "kept", [None, {"training_data": made_of(ROWS, ROWS, None)["training_data"], "teachers": []}]
)
def test_a_checkpoint_without_digests_of_tokens_and_validation_is_gone_on_from(
    saver, tmp_path, kept
):
    save(saver, made_of=kept)
    assert saver_of(tmp_path).restore()[0].update == 3
    if kept is not None:
        with pytest.raises(RunFolderError, match="training manifest"):
            saver_of(tmp_path, train=OTHER_ROWS).restore()


@pytest.mark.parametrize("damage", ["no JSON", "no optimiser", "no weights"])
def test_damage_is_told_from_change(saver, tmp_path, damage):
    folder = save(saver)
    if damage == "no weights":
        (folder / "model" / "model.safetensors").unlink()
    else:
        path = folder / "state.json"
        content = json.loads(path.read_text())
        del content["optimizer"]
        path.write_text("{" if damage == "no JSON" else json.dumps(content))
    with pytest.raises(CheckpointError, match=r"is damaged .* starts from the beginning"):
        saver_of(tmp_path).restore()
