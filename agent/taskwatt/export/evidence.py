"""Which attempts and stalls stay where a backend samples: incidents link to them, so they must not be dropped.

Tail sampling cannot follow a link, and decides before an incident is known. So attempts that waste, and stalls, are
marked `taskwatt.keep` as they are exported, a few of each task type and route, and incidents link to marked ones only.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from taskwatt.export.span import Ids
from taskwatt.observations import WASTED_OUTCOMES, Attempt, Stall

EVIDENCE_EVERY_S: Final = 10.0
"""Six traces a minute of a task type at the most, however hard it storms: what a backend has to hold for us."""
USUAL_EVERY_S: Final = 60.0
"""Also one attempt a minute that wastes nothing: a chain that never settles is a single trace, and a sampler that once
decided against it would never see the attempts of its incident."""
LINKS: Final = 8
"""Evidence an incident links to, the newest: a minute's, with some left from before it opened."""
_TASKS: Final = 512


@dataclass(slots=True)
class _Task:
    usual_at: float = float("-inf")
    evidence_at: float = float("-inf")
    marked: deque[bytes] = field(default_factory=lambda: deque(maxlen=2 * LINKS))
    """Span ids: a batch that was refused is made again, and must be marked again."""
    evidence: deque[Ids] = field(default_factory=lambda: deque(maxlen=LINKS))


class Evidence:
    """One agent's choice. Not thread-safe: the export thread owns it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._tasks: OrderedDict[str, _Task] = OrderedDict()

    def keep(self, observed: Attempt | Stall, in_incident: bool) -> bool:
        """Is its span to be marked? A stall is always evidence. Ask once for each time the span is made."""
        name = observed.name if isinstance(observed, Stall) else observed.task
        task = self._tasks.get(name) or self._new(name)
        self._tasks.move_to_end(name)
        if observed.span_id in task.marked:
            return True
        now = self._clock()
        if in_incident or isinstance(observed, Stall) or observed.outcome in WASTED_OUTCOMES:
            if now - task.evidence_at < EVIDENCE_EVERY_S:
                return False
            task.evidence_at = now
            task.evidence.append((observed.trace_id, observed.span_id))
        elif now - task.usual_at < USUAL_EVERY_S:
            return False
        else:
            task.usual_at = now
        task.marked.append(observed.span_id)
        return True

    def _new(self, name: str) -> _Task:
        if len(self._tasks) >= _TASKS:
            self._tasks.popitem(last=False)
        task = self._tasks[name] = _Task()
        return task

    def of(self, task: str) -> list[Ids]:
        """The newest evidence about a task type, oldest first."""
        found = self._tasks.get(task)
        return list(found.evidence) if found is not None else []
