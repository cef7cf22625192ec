"""`training.freeze_encoder_updates`: the encoder stands still, and learns again when released."""

import tiny
import torch
from safetensors.torch import load_file
from tiny_runs import run


def test_the_encoder_learns_from_the_first_update_that_is_not_named(tiny_root):
    config = tiny.train_config(
        "released", training__epochs=1, training__freeze_encoder_updates=2,
        training__checkpoint_every_updates=1, training__keep_checkpoints=3,
    )  # fmt: skip
    run(config, tiny_root)
    folders = sorted((tiny_root / "runs" / "released" / "checkpoints").glob("update-*"))
    first, second, third = (load_file(each / "model" / "model.safetensors") for each in folders)

    def moved(before, after):
        names = [name for name in before if not torch.equal(before[name], after[name])]
        return {name.partition(".")[0] for name in names}

    assert moved(first, second) == {"decoder", "ctc"}
    assert moved(second, third) == {"encoder", "decoder", "ctc"}
