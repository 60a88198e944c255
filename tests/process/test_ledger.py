"""The ledger: what a supervisor knows is seen by others, as long as it lives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from node.observe.beats import Beats
from node.process.ledger import SUPERVISOR, Ledger, NodeState, RoleState, state_in


def beating(ledger: Ledger, role: str, loop: str, within_s: float) -> None:
    beats = Beats()
    beats.keep_in(ledger.beats_of(role))
    beats.beat(loop, within_s)


def test_a_process_that_comes_round_is_well_and_one_that_does_not_is_silent(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("route", child=7)
    ledger.note("web", child=8, failures=2, status=9)
    beating(ledger, "route", "settle", -3.0)
    beating(ledger, "web", "http", 60.0)

    route, web = state_in(tmp_path).roles

    assert (route.name, route.loop) == ("route", "settle")
    assert 3.0 <= route.silent_s < 60.0
    assert web == RoleState(name="web", child=8, failures=2, status=9)


def test_of_a_process_between_two_lives_nothing_is_due(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    beating(ledger, "route", "settle", -3.0)

    ledger.note("route", child=None, failures=1, status=9)

    assert state_in(tmp_path).roles == (RoleState(name="route", failures=1, status=9),)


def test_a_supervisor_that_is_stopped_is_silent_itself(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("route", child=7)
    beating(ledger, SUPERVISOR, "supervise", -3.0)

    assert [role.name for role in state_in(tmp_path).roles] == ["route", SUPERVISOR]


def test_several_supervisors_may_share_a_folder(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.note("web", child=7)
    second.note("work cpu", child=8)
    second.refuse("rules.0: mended wrongly")

    state = state_in(tmp_path)

    assert [role.name for role in state.roles] == ["web", "work cpu"]
    assert state.refused == "rules.0: mended wrongly"
    second.close()
    assert [role.name for role in state_in(tmp_path).roles] == ["web"]
    assert state_in(tmp_path).refused == ""


def test_what_a_killed_supervisor_leaves_is_believed_by_nobody(tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from node.process.ledger import Ledger

        Ledger(Path(sys.argv[1])).note("route", child=7)
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=False)
    assert list(tmp_path.glob("*.json"))

    assert state_in(tmp_path) == NodeState()

    ledger = Ledger(tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    ledger.close()
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_any_length_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    ledger.refuse("rules.0: wrong; " * 10_000)

    assert state_in(tmp_path).refused.startswith("rules.0: wrong; ")
    ledger.close()
