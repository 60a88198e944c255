"""docs/architecture.md shows the trip of one CT as the code takes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.trip import Trip, settling, trip

pytest.importorskip("torch")
pytest.importorskip("monai")

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text("utf-8")
ROOMS = Path(__file__).resolve().parents[1] / "node"


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Trip:
    """The trip, watched."""
    return trip(tmp_path_factory.mktemp("trip"))


def flow() -> list[tuple[str, str]]:
    """File and function of each line of the flow."""
    block = PAGE.partition("```flow\n")[2].partition("```")[0]
    return [(file, name) for *_, file, name in (line.split() for line in block.splitlines())]


def test_the_flow_is_the_order_in_which_the_code_is_called(taken: Trip) -> None:
    shown = flow()

    assert len(shown) > 30
    assert set(shown) - taken.calls.keys() == set()
    order = {call: number for number, call in enumerate(taken.calls)}
    assert [order[call] for call in shown] == sorted(order[call] for call in shown)


def test_the_page_counts_the_files_of_the_trip(taken: Trip) -> None:
    (told,) = re.findall(r"enters (\d+) files", PAGE)

    # a busy machine may be too slow for a peer, and tries again
    assert len(taken.files - {"jobs/retry.py"}) == int(told) < 60


def test_to_settle_a_series_leads_through_few_modules(tmp_path: Path) -> None:
    """Gather, decide, write: before that was so a reader stayed 49 times, and returned 31 times."""
    stays = settling(tmp_path).stays

    assert len(stays) <= 24, stays
    assert len(stays) - len(set(stays)) <= 9


def test_every_room_stands_on_the_page() -> None:
    block = PAGE.partition("## The rooms")[2].partition("**What may import")[0]
    rooms = {path.parent.name for path in ROOMS.glob("*/__init__.py")}

    assert rooms - set(re.findall(r"\w+", block)) == {"database", "observe", "tls"}
