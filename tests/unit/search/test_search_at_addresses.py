"""A search whose root is an address: its own process needs no checkpoints of trials."""

from search_help import grid_of, opened, search_config, write_base

from kd_ray.report.search import read_search
from kd_ray.storage import cache


def test_taking_up_a_trial_brings_no_checkpoints_and_keeps_nothing(far):
    write_base(far.folder)
    far.patch.chdir(far.folder)
    config = search_config()
    book, base = opened(config, far.root)
    proposed = grid_of(config)[0]
    assert book.begin(proposed, base) is not None
    far.write(f"runs/search/trials/{proposed.key}/checkpoints/update-1/state.json", "{}")
    far.other_node()
    book, base = opened(config, far.root)
    assert book.begin(proposed, base) is not None
    assert [trial.key for trial in book.trials()] == [proposed.key]
    assert len(read_search(far.root, "search").runs) == 1
    assert not list(far.root.rglob("update-1"))
    assert not cache.the_cache()._pins
