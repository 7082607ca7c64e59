"""Accounts in C and in pure Python keep the same promises."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest

from taskwatt import accounts as chosen
from tests.support.carriers import carrier

__all__ = ["carrier"]


@pytest.fixture
def accounts(carrier: str) -> Iterator[ModuleType]:
    """taskwatt.accounts as a process without, or with, the accelerator has it."""
    specification = importlib.util.spec_from_file_location("taskwatt_accounts_anew", chosen.__file__)
    assert specification is not None
    assert specification.loader is not None
    anew = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(anew)
    assert (carrier == "C") == anew.IN_C
    anew.forget()
    yield anew
    anew.forget()
