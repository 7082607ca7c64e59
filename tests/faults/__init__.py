"""The fault suite: real workers with a seeded bug, their fixed twins, and a score. `python -m tests.faults --help`.

A *scenario* (scenarios/, a module each) turns a seed into two *cases*, the bug and its fixed twin, under the same
arrivals. The *engine* runs a case with the agent switched on and records the truth without asking the agent: the
kernel's CPU clocks, the application's own notes of its attempts, the moment the fault struck. The *score* holds what
the agent said against that. Only `celery_app` knows Celery.
"""
