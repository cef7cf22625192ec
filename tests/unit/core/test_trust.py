import numpy as np

from kd_ray.core.trust import TrustStatistics, trust_statistics


def test_ties_and_zeros_are_counted_by_utterance():
    errors = np.array([[0, 1, 2, 3, 0], [0, 2, 2, 4, 1], [1, 3, 5, 4, 1]])
    counted = trust_statistics(errors, np.array([5, 5, 5, 5, 5]))
    assert counted == TrustStatistics(ties=2, zeros=2, utterances=5)
    assert counted.tie_share == 0.4
    assert counted.zero_share == 0.4


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(0)
    errors, lengths = rng.integers(0, 3, size=(4, 30)), np.full(30, 9)
    whole = trust_statistics(errors, lengths)
    parts = [trust_statistics(errors[:, i : i + 7], lengths[i : i + 7]) for i in range(0, 30, 7)]
    assert sum(parts, TrustStatistics()) == whole


def test_rows_without_reference_and_absent_teachers_do_not_count():
    errors = np.array([[0, -1, 2], [-1, -1, 2], [0, -1, -1]])
    counted = trust_statistics(errors, np.array([4, -1, 4]))
    assert counted == TrustStatistics(ties=2, zeros=1, utterances=2)


def test_one_teacher_has_no_ties_and_no_utterances_no_shares():
    assert trust_statistics(np.array([[0, 1]]), np.array([3, 3])).ties == 0
    nothing = trust_statistics(np.zeros((3, 0), dtype=int), np.zeros(0, dtype=int))
    assert nothing == TrustStatistics()
    assert nothing.tie_share == 0.0
