"""CPython's own tests of asyncio, run without the agent and with it: every test has to end as it does without."""
