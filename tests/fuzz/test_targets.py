"""The targets of the search hold for their seeds, whole, cut and with a byte changed."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_neighbours_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    for seed in SEEDS[name]:
        target(seed)
        for at in range(0, len(seed), max(1, len(seed) // 40)):
            target(seed[:at])
            target(seed[:at] + bytes([seed[at] ^ 0xFF]) + seed[at + 1 :])
            target(seed[:at] + seed[at:] + seed[at:])
