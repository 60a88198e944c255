"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _shared(folder: str) -> Path:
    named = os.environ.get("SEGNODE_TEST_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared"
    path = root / folder
    if not path.is_dir():
        pytest.skip(f"no {folder} in {root}: set SEGNODE_TEST_DATA to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real DICOM cases."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_labels() -> Path:
    """The folder of structure names and codes."""
    return _shared("labels")
