"""An actor with nothing around it, to measure a pool against."""

from collections.abc import Callable
from typing import Any

import ray

from kd_ray.cluster.pool.exchange import question_of
from kd_ray.core.contracts import Audio, Score
from kd_ray.core.strategies import FusedTargets

Make = Callable[[Audio, Score], FusedTargets]


class _Bare:
    def __init__(self, target: FusedTargets, make: Make) -> None:
        self._target = target
        self._make = make

    def hand_back(self, audio: Audio, question: Score) -> FusedTargets:
        return self._target

    def make(self, audio: Audio, question: Score) -> FusedTargets:
        return self._make(audio, question)


class BareActor:
    """Gets the same audio and question as a host, in the same way, and gives a target back.

    Args:
        target: that `hand_back` returns.
        make: makes the target of a request, in the actor.
    """

    def __init__(self, target: FusedTargets, make: Make) -> None:
        self._actor: Any = ray.remote(_Bare).options(num_cpus=0).remote(target, make)

    def hand_back(self, request: Score) -> FusedTargets:
        """A target that was made before."""
        return self._call(self._actor.hand_back, request)

    def make(self, request: Score) -> FusedTargets:
        """The target of this request."""
        return self._call(self._actor.make, request)

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)

    def _call(self, method: Any, request: Score) -> FusedTargets:
        # As the pool's client sends a request: audio through the object store.
        question = question_of(request, request.deadline_s)
        target: FusedTargets = ray.get(method.remote(ray.put(request.audio), question))
        return target
