"""Files of /proc, by the reader in C and by the one in Python."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from taskwatt import accounts
from taskwatt import procfs as chosen
from tests.support.carriers import part_in_c


@pytest.fixture(params=["C", "Python"])
def procfs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """taskwatt.procfs as a process with, or without, the accelerator has it."""
    if request.param == "C":
        monkeypatch.setattr(accounts, "part_in_c", part_in_c())
    monkeypatch.setattr(accounts, "IN_C", request.param == "C")
    specification = importlib.util.spec_from_file_location("taskwatt_procfs_anew", chosen.__file__)
    assert specification is not None
    assert specification.loader is not None
    anew = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(anew)
    return anew


def test_a_file_is_read_by_its_name_and_by_its_descriptor_again_and_again(procfs: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one\n")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        read = [procfs.read(file), procfs.read(str(file)), procfs.read_open(descriptor)]
        file.write_bytes(b"another\n")
        read.append(procfs.read_open(descriptor))
    finally:
        os.close(descriptor)
    assert read == [b"one\n", b"one\n", b"one\n", b"another\n"]


def test_what_cannot_be_read_is_empty(procfs: ModuleType, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        folder = procfs.read_open(descriptor)
    finally:
        os.close(descriptor)
    assert (folder, procfs.read_open(descriptor)) == (b"", b"")
    assert (procfs.read(tmp_path), procfs.read(tmp_path / "none"), procfs.read("a\0name")) == (b"", b"", b"")


def test_of_a_large_file_the_beginning_is_read(procfs: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 1_000)
    assert procfs.read(file) == (bytes(range(256)) * 1_000)[:65536]
