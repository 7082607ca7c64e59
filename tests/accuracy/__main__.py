"""Imported under its own name, so that the coroutines have theirs."""

from tests.accuracy import programs

programs.main()
