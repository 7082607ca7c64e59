"""Sums over the newest ticks, kept up to date as ticks come and go: reading a minute costs no more than a second.

Of a tick only what changed is kept, as single-precision figures: under 100 bytes for a coroutine type.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple


class _Tick(NamedTuple):
    names: tuple[str, ...]
    figures: array[float]
    """`width` of them for each name."""
    peaks: array[float]
    """One for each name."""


class SlidingSums:
    """Vectors of `width` figures by name, summed over the newest `spans` ticks, and one peak beside each vector."""

    def __init__(self, spans: Sequence[int], width: int) -> None:
        self._width: Final = width
        self._ticks: deque[_Tick] = deque(maxlen=max(spans))
        self._sums: Final[dict[int, dict[str, list[float]]]] = {span: {} for span in spans}
        """A vector's last figure counts the ticks that are in it: without one its name is forgotten, and with it what
        adding and taking away has left of rounding."""

    def roll(self, tick: Mapping[str, tuple[Sequence[float], float]]) -> None:
        """One more tick has ended: by name, its figures and its peak."""
        figures, peaks = array("f"), array("f")
        for values, peak in tick.values():
            figures.extend(values)
            peaks.append(peak)
        newest = _Tick(tuple(tick), figures, peaks)
        for span, sums in self._sums.items():
            if len(self._ticks) >= span:
                self._add(sums, self._ticks[-span], -1)
            self._add(sums, newest, 1)
        self._ticks.append(newest)

    def over(self, span: int) -> dict[str, tuple[list[float], float]]:
        """The sums and the highest peak of every name that has been in the newest `span` ticks."""
        peaks: dict[str, float] = {}
        for tick in list(self._ticks)[-span:]:
            for name, peak in zip(tick.names, tick.peaks, strict=True):
                if peak > peaks.get(name, 0.0):
                    peaks[name] = peak
        return {name: (sums[: self._width], peaks.get(name, 0.0)) for name, sums in self._sums[span].items()}

    def _add(self, sums: dict[str, list[float]], tick: _Tick, sign: int) -> None:
        width = self._width
        for at, name in enumerate(tick.names):
            vector = sums.get(name)
            if vector is None:
                vector = sums[name] = [0.0] * (width + 1)
            for to, value in enumerate(tick.figures[at * width : (at + 1) * width]):
                vector[to] += sign * value
            vector[width] += sign
            if vector[width] <= 0:
                del sums[name]
