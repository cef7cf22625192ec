"""What the teachers of a host read: features made once per front end, texts that were heard."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping

from kd_ray.core.contracts import Generate, Score, TeacherInfo
from kd_ray.teachers.cache import take_request
from kd_ray.teachers.host_state import Known
from kd_ray.teachers.readers import Inputs, Reader
from kd_ray.teachers.threads import HostThreads
from kd_ray.teachers.transcriber import Transcriber


class InputMaker:
    """Makes inputs beside the event loop.

    Args:
        reader: the front end of a teacher, by its index.
        transcriber: writes what text teachers read, where a request carries no texts.
        max_utterances: of one pass of the transcriber.
        threads: of the host.
    """

    def __init__(
        self,
        reader: Callable[[int], Reader],
        transcriber: Transcriber | None,
        max_utterances: int,
        threads: HostThreads,
    ) -> None:
        self._reader = reader
        self._transcriber = transcriber
        self._max_utterances = max_utterances
        self._threads = threads
        self._readers: dict[str, Reader] = {}

    async def with_texts(
        self, request: Score | Generate, asked: Iterable[TeacherInfo]
    ) -> tuple[Score | Generate, float]:
        """The request with what text teachers read, and the seconds that it took to hear it."""
        if request.texts is not None or self._transcriber is None:
            return request, 0.0
        if all(info.reads != "text" for info in asked):
            return request, 0.0
        return await self._threads.passes.call(self._transcribe, self._transcriber, request)

    async def make(
        self, request: Score | Generate, known: Known, here: Mapping[int, TeacherInfo]
    ) -> dict[str, Inputs]:
        """By front end: what teachers read of the rows that they must be asked about.

        Args:
            request: as it came, with texts.
            known: what is remembered of each teacher's answer.
            here: teachers of the host; those that left meanwhile are missed where their answer is
                looked for.
        """
        asked = [index for index, each in known.found.items() if each.missing and index in here]
        if not asked:
            return {}
        part = take_request(request, known.made)
        waveforms = part.audio.waveforms() if len(part.audio.lengths) else []
        inputs: dict[str, Inputs] = {}
        for index in asked:
            digest = here[index].front_end_digest
            if digest not in inputs:
                try:
                    read = self._readers.get(digest) or self._reader(index)
                except KeyError:
                    # It left while another front end was at work.
                    continue
                self._readers[digest] = read
                inputs[digest] = await self._threads.helper.call(read, waveforms, part.texts)
        return inputs

    def _transcribe(
        self, transcriber: Transcriber, request: Score | Generate
    ) -> tuple[Score | Generate, float]:
        started = time.perf_counter()
        waveforms = request.audio.waveforms() if len(request.audio.lengths) else []
        texts = transcriber(request.utterance_ids, waveforms, self._max_utterances)
        return dataclasses.replace(request, texts=texts), time.perf_counter() - started
