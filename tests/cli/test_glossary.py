"""docs/glossary.md knows every state, and every command that it sends people to is one."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from node.domain.instance import InstanceState, SeriesState
from node.domain.job import DeliveryState, JobState, MatchState
from tests.cli.test_documentation import COMMANDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")

# states of something that is as it should be: nobody has to act, and nothing has to be explained
SETTLED = {"complete", "done", "stored", "duplicate", "amended", "not_an_input", "confirmed"}


@pytest.mark.parametrize(
    "states", [InstanceState, SeriesState, MatchState, JobState, DeliveryState]
)
def test_every_state_that_needs_explaining_stands_in_the_table(states: type[StrEnum]) -> None:
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]+) \|", PAGE, re.M))))

    assert {state.value for state in states} - SETTLED - told == set()


def test_every_command_of_the_table_is_one() -> None:
    named = set(re.findall(r"`segnode ([a-z]+(?: [a-z]+)?)", PAGE))

    assert len(named) > 10
    assert named - COMMANDS.keys() == set()
