"""The fault suite as a site runs it, and that it would notice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.case import Case, Expected, Target, aborted
from tests.faults.framing import FORGED
from tests.faults.honest import Honest
from tests.faults.suite import Suite, all_cases
from tests.faults.watch import Watch, own_node
from tests.support.cases import REPOSITORY
from tests.support.peers import free_port, need
from tests.support.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("faults")]


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_quick_attack_is_noticed_by_anybody() -> None:
    """Times are shown and not judged: the machine may be busy with other tests."""
    done = program("--quick", "--untimed")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_no_attack_is_noticed_by_anybody() -> None:
    done = program("--untimed")

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_of_somebody_else_is_not_attacked_unasked() -> None:
    done = program(f"127.0.0.1:{free_port()}")

    assert done.returncode == 2
    assert "--yes" in done.stderr


def test_what_is_no_segnode_is_sent_nothing(tmp_path: Path) -> None:
    port = free_port()
    storescp = [need("/usr/bin/storescp"), "-od", str(tmp_path), str(port)]
    with subprocess.Popen(storescp) as other:
        try:
            wait_for("storescp", lambda: Target(dicom_port=port).line().connection.close() is None)
            done = program(f"127.0.0.1:{port}", "--yes")
        finally:
            other.terminate()
            other.wait(PATIENCE_S)

    assert done.returncode == 1
    assert "is no segnode: nothing is sent" in done.stderr


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Watch]]:
    with own_node(tmp_path_factory.mktemp("faults")) as node:
        yield node


def test_a_wrong_answer_and_one_that_breaks_off_are_wrong(
    own: tuple[Target, Watch], tmp_path: Path
) -> None:
    target, watch = own

    def breaks_off(target: Target) -> str:
        raise ConnectionResetError("cut")

    cases = [
        Case(id="x", name="another answer", attack=lambda _: "echo 0000", expected=aborted(6)),
        Case(id="x", name="no answer", attack=breaks_off, expected=aborted(6)),
        Case(
            id="x",
            name="as expected",
            attack=lambda _: "echo 0000",
            expected=Expected(sentence="served", pattern="echo 0000"),
        ),
    ]
    suite = Suite(target=target, honest=Honest(target, tmp_path), watch=watch, is_timed=False)

    verdicts = list(suite.run(cases))

    assert [verdict.is_right for verdict in verdicts] == [False, False, True]
    assert verdicts[0].faults == [
        "answered 'echo 0000', not A-ABORT by the provider, reason 6",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"{FORGED}\n", "a forged line in the log"),
        ("2026-01-01T00:00:00.000 warning \x1b[31mred\n", "a control character in the log"),
        ("more of it\n", "a line in the log that the node did not begin"),
        ("2026-01-01T00:00:00.000 error   role ended\n", "a role died"),
        ("2026-01-01T00:00:00.000 warning PID-4711-77\n", "a patient or a secret in the log"),
    ],
)
def test_a_wrong_line_in_the_log_is_noticed(
    own: tuple[Target, Watch], line: str, fault: str
) -> None:
    _, watch = own
    watch.begin()
    with (watch.node.folder / "node.log").open("a") as log:
        log.write(line)

    faults, _ = watch.end()

    assert fault in faults


def test_what_lies_outside_the_data_folder_is_noticed(own: tuple[Target, Watch]) -> None:
    _, watch = own
    watch.begin()
    written = watch.outside / "etc" / "x"
    written.parent.mkdir()
    written.touch()

    faults, _ = watch.end()

    assert faults == ["a file outside the data folder"]


def test_cases_have_names_of_their_own() -> None:
    titles = [case.title for case in all_cases(Target(dicom_port=1, http_port=1))]

    assert len(titles) == len(set(titles)) > 150
