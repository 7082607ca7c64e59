"""Is this process one that others will be forked from? Such a one must not have a thread of ours."""

from __future__ import annotations

import sys
import threading


def is_prefork_master() -> bool:
    """Is this gunicorn's master? Its workers are forked from within it, so the stack tells which of them this is.

    The servers of other libraries start their workers as fresh interpreters, and measure nothing in between.
    """
    if "gunicorn.arbiter" not in sys.modules:
        return False
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # pyright: ignore[reportPrivateUsage]  # documented
    inside = False
    while frame is not None:
        if frame.f_code.co_name == "init_process":
            return False
        inside = inside or str(frame.f_globals.get("__name__")).startswith("gunicorn.")
        frame = frame.f_back
    return inside
