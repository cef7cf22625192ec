import pytest
import tiny

from kd_ray.config.data import Batches
from kd_ray.core.contracts import Busy, TeachersGone
from kd_ray.speech.batches import GlobalBatches
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.data import StudentData
from kd_ray.students.pipeline import Pipeline


@pytest.fixture(scope="module")
def data(tiny_root):
    config = tiny.train_config("pipeline")
    return StudentData(
        read_manifest(tiny_root / config.data.train),
        root=tiny_root,
        tokens=Tokens.load(tiny_root / config.data.tokens),
        column="phones",
        extractor=LogMelExtractor(config.model.front_end),
        cache_gib=0.1,
    )


class RecordingSource:
    """Answers at once; remembers what was asked, collected and cancelled, in order."""

    def __init__(self, budget=100):
        self.log = []
        self.budget = budget
        self.flying = 0

    def ask(self, request):
        if self.flying == self.budget:
            raise Busy("enough")
        self.flying += 1
        self.log.append(("ask", request))
        return _Pending(self, request)


class _Pending:
    def __init__(self, source, request):
        self.source, self.request = source, request

    def result(self, timeout_s):
        self.source.flying -= 1
        self.source.log.append(("result", self.request))
        return self.request

    def cancel(self):
        self.source.flying -= 1
        self.source.log.append(("cancel", self.request))


def make(data, source=None, *, lookahead=1, rank=0, world=1, accumulation=1, total=6, parts=None):
    batches = GlobalBatches(
        [row.id for row in data.utterances], data.sizes, Batches(batch_size=8), seed=3
    )
    return Pipeline(
        data,
        batches,
        total_updates=total,
        lookahead=lookahead,
        rank=rank,
        world=world,
        parts=parts or world * accumulation,
        source=source,
        request=lambda batch, items, epoch: batch.utterance_ids,
        with_audio=False,
    )


def test_the_next_update_is_asked_for_before_the_first_is_collected(data):
    source = RecordingSource()
    pipeline = make(data, source, lookahead=1)
    updates = pipeline.updates(0)
    first = next(updates)
    assert [kind for kind, _ in source.log] == ["ask", "ask"]
    pipeline.collect(first, 1.0)
    next(updates)
    assert [kind for kind, _ in source.log] == ["ask", "ask", "result", "ask"]


def test_without_lookahead_only_the_present_update_is_asked_for(data):
    source = RecordingSource()
    pipeline = make(data, source, lookahead=0)
    for update in pipeline.updates(0):
        pipeline.collect(update, 1.0)
    assert [kind for kind, _ in source.log] == ["ask", "result"] * 6


def test_a_busy_source_is_asked_again_later_and_nothing_is_lost(data):
    source = RecordingSource(budget=1)
    pipeline = make(data, source, lookahead=3, accumulation=2)
    collected = []
    for update in pipeline.updates(0):
        for signal in pipeline.collect(update, 1.0):
            collected.extend(signal)
    expected = [name for update in make(data).updates(0) for name in update.utterance_ids]
    assert sorted(collected) == sorted(expected)


def test_what_is_in_flight_is_cancelled_when_training_stops(data):
    source = RecordingSource()
    updates = make(data, source, lookahead=2).updates(0)
    next(updates)
    updates.close()
    assert source.flying == 0


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 2), (3, 3)])
def test_global_batches_do_not_depend_on_workers_or_accumulation(data, world, accumulation):
    alone = [update.utterance_ids for update in make(data).updates(0)]
    for rank in range(world):
        pipeline = make(data, rank=rank, world=world, accumulation=accumulation)
        assert [update.utterance_ids for update in pipeline.updates(0)] == alone
    for index in range(6):
        parts = []
        for rank in range(world):
            pipeline = make(data, rank=rank, world=world, accumulation=accumulation)
            update = next(pipeline.updates(index))
            for micro in update.micro_batches:
                parts.extend(() if micro.ghost else micro.batch.utterance_ids)
        assert sorted(parts) == sorted(alone[index])


def test_a_smaller_group_takes_the_same_micro_batches(data):
    taken = {}
    for world in (1, 2, 3):
        found = []
        for rank in range(world):
            update = next(make(data, rank=rank, world=world, parts=3).updates(2))
            found += [(micro.part, micro.batch.utterance_ids) for micro in update.micro_batches]
        taken[world] = sorted(found)
    assert taken[1] == taken[2] == taken[3]
    assert [part for part, _ in taken[1]] == [0, 1, 2]


def test_a_worker_without_rows_gets_a_ghost(data):
    pipeline = make(data, rank=8, world=9)
    update = next(pipeline.updates(0))
    assert [micro.ghost for micro in update.micro_batches] == [True]


def test_epochs_end_where_their_utterances_end(data):
    ends = [update.ends_epoch for update in make(data, total=7).updates(0)]
    assert ends == [False, False, True, False, False, True, True]


def test_starting_later_gives_the_later_updates(data):
    whole = [update.utterance_ids for update in make(data).updates(0)]
    assert [update.utterance_ids for update in make(data).updates(4)] == whole[4:]


@pytest.mark.parametrize("error", [TeachersGone, TimeoutError])
def test_a_planner_that_gets_no_answer_is_told_where_signals_are_collected(data, error):
    class Planner:
        def plan(self, batch, update, epoch):
            raise error("nobody answers")

        def remember(self, update, read):
            pass

    pipeline = make(data, RecordingSource())
    pipeline.planner = Planner()
    first = next(pipeline.updates(0))
    with pytest.raises(error, match="nobody answers"):
        pipeline.collect(first, 1.0)
