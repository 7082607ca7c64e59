"""What a pool process tells when it is asked where its task types burn CPU.

Sampling an attempt costs 0.2-0.4 ms, most of it for the thread: a question is answered from a bounded number of them.
"""

from __future__ import annotations

import threading
from typing import Final

from taskwatt.code_sampler import CodeSampler, Samples, hottest
from taskwatt.segments import SegmentWriter, layout

ENOUGH_SAMPLES: Final = 60
"""Looks at one task type in answer to one question: the share of a line is then known to about 13 %."""
MOST_ATTEMPTS: Final = 100
"""Sampled for one question and task type; those of a no-op never amount to an answer."""


class CodeAnswers:
    """Of one process, for the question that is asked now. One executing thread."""

    def __init__(self, segment: SegmentWriter) -> None:
        self._segment = segment
        self._asked_until = 0
        self._samples: dict[int, Samples] = {}
        self._attempts: dict[int, int] = {}

    def sampler(self, task: int, asked_until: int) -> CodeSampler | None:
        """One that looks at this thread from now on; None when enough is known of this task type (a string's index)."""
        if asked_until != self._asked_until:
            self._asked_until = asked_until
            self._samples.clear()
            self._attempts.clear()
        samples = self._samples.setdefault(task, Samples())
        attempts = self._attempts[task] = self._attempts.get(task, 0) + 1
        if samples.samples >= ENOUGH_SAMPLES or attempts > MOST_ATTEMPTS or len(self._samples) > layout.CODE_SLOTS:
            return None
        sampler = CodeSampler()
        sampler.start(threading.get_ident())
        return sampler

    def tell(self, task: int, samples: Samples) -> None:
        """What was seen of this task type so far: one attempt may be too short to say anything."""
        samples = self._samples[task] = self._samples.get(task, Samples()) + samples
        site = hottest(samples)
        if site is not None:
            slot = list(self._samples).index(task)
            self._segment.code(slot, task, site.function, site.file, site.line, site.weight, site.samples)
