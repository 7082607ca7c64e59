"""A task that keeps itself going: it publishes itself again with the arguments it was given. FIXED=1 lets it end."""

from __future__ import annotations

import os

from celery import Celery

FIXED = os.environ.get("FIXED") == "1"
PAGES = 40

app = Celery("crm", broker=os.environ.get("BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_ignore_result=True,
    beat_schedule={"contacts": {"task": "crm.sync_contacts", "schedule": 5.0, "args": ("acme",)}},
    beat_schedule_filename=os.environ.get("BEAT_SCHEDULE", "/tmp/taskwatt-self-re-enqueue"),
)


@app.task(name="crm.sync_contacts")
def sync_contacts(account: str, page: int = 0) -> None:
    """The bug: the next page is never asked for, so there is always one more. Each start by beat adds a loop."""
    imported = import_page(account, page)
    if not FIXED:
        sync_contacts.delay(account, page)
    elif imported:
        sync_contacts.delay(account, page + 1)


def import_page(account: str, page: int) -> int:
    """Contacts of one page, 0 after the last; a few milliseconds of CPU."""
    return sum(len(f"{account}-{page}-{row}") for row in range(10_000)) if page < PAGES else 0
