"""For people who already run `opentelemetry-instrument`: the agent as one more instrumentor.

opentelemetry-instrumentation finds it by its entry point and is not needed otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import taskwatt


class _Alone:
    """What we use of BaseInstrumentor, for code that calls the instrumentor itself."""

    def instrument(self, **kwargs: Any) -> None:
        self._instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        self._uninstrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        raise NotImplementedError

    def _uninstrument(self, **kwargs: Any) -> None:
        raise NotImplementedError


if TYPE_CHECKING:
    _Base = _Alone  # theirs is not typed
else:
    try:
        from opentelemetry.instrumentation.instrumentor import BaseInstrumentor as _Base
    except ImportError:
        _Base = _Alone


class TaskwattInstrumentor(_Base):
    """`instrument()` and `uninstrument()` of the package; keyword arguments are accepted and have no effect."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: integrations wait for their libraries themselves."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:  # noqa: ARG002
        taskwatt.instrument()

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002
        taskwatt.uninstrument()
