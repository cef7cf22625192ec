"""A killed run is refused other tokens and data under the same paths, and goes on with its own."""

import pytest
import tiny
from tiny_runs import run, run_until

from kd_ray.evaluation.run_folder import RunFolderError, read_json_lines
from kd_ray.speech.manifest import read_manifest, write_manifest
from kd_ray.speech.tokens import SPECIALS, Tokens


@pytest.mark.parametrize("how", ["permuted", "larger"])
def test_a_run_does_not_go_on_with_other_tokens(tiny_root, how):
    own = Tokens.load(tiny_root / "data" / "tokens.json")
    place = f"data/tokens-{how}.json"
    own.save(tiny_root / place)
    config = tiny.train_config(f"tokens-{how}", data__tokens=place)
    run_until(4, config, tiny_root, None)
    phones = own.symbols[len(SPECIALS) :]
    other = {"permuted": phones[::-1], "larger": (*phones, "z")}[how]
    Tokens("phones", (*SPECIALS, *other)).save(tiny_root / place)
    with pytest.raises(RunFolderError, match=r"tokens \(data\.tokens\): digest .*\nBring them"):
        run(config, tiny_root)
    own.save(tiny_root / place)
    assert run(config, tiny_root)["updates"] == 6
    events = read_json_lines(tiny_root / "runs" / config.name / "events.jsonl")
    assert [event["update"] for event in events if event["kind"] == "resumed"] == [3]


def test_a_run_does_not_go_on_with_another_validation_split(tiny_root):
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    place = tiny_root / "data" / "valid-of-a-run.parquet"
    write_manifest(place, rows)
    config = tiny.train_config("other-valid", data__valid=f"data/{place.name}")
    run_until(4, config, tiny_root, None)
    write_manifest(place, rows[1:])
    with pytest.raises(RunFolderError, match=r"validation manifest \(data\.valid\): digest "):
        run(config, tiny_root)
    write_manifest(place, rows)
    assert run(config, tiny_root)["updates"] == 6
