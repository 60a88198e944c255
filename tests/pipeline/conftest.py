"""One warm worker for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node_in_process import SharedWorker


@pytest.fixture(scope="session")
def worker() -> Iterator[SharedWorker]:
    """Does the jobs of whatever node a test makes."""
    shared = SharedWorker()
    yield shared
    shared.close()
