import pytest

from kd_ray.evaluation.score import require_texts
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.speech.manifest import Utterance


@pytest.mark.parametrize("text", [None, "", " \t"])
def test_an_utterance_without_a_text_is_refused(text):
    rows = [Utterance("a", phones="g a"), Utterance("b", phones=text)]
    with pytest.raises(UnusableSystem, match="1 of 2 utterances have no phones to compare with: b"):
        require_texts(rows, "phones")
    require_texts(rows[:1], "phones")
