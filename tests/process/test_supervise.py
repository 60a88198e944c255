"""The supervisor against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from node.domain.errors import ConfigInvalid
from node.observe.beats import due_in
from node.pipeline import data_folder
from node.process.ledger import NodeState, RoleState, state_in
from tests.support.waiting import wait_for

PROGRAM = """
    import os, sys, time
    from pathlib import Path
    from node.domain.errors import ConfigInvalid
    from node.process.supervise import Supervisor

    folder = Path(sys.argv[1])

    def say(name, text):
        with (folder / name).open("a") as file:
            file.write(text + "\\n")

    def steady(signals):
        say("steady.pid", str(os.getpid()))
        while not signals.stop.wait(0.02):
            if signals.reload.is_set():
                signals.reload.clear()
                say("reloaded", "yes")
        say("drained", "yes")

    def crashing(signals):
        say("crashing.pid", str(os.getpid()))
        if (folder / "crash").exists():
            (folder / "crash").unlink()
            os.kill(os.getpid(), 9)
        signals.stop.wait()

    def check():
        if (folder / "bad").exists():
            say("refused", "yes")
            raise ConfigInvalid([("rules.0", "mended wrongly")])

    roles = {"steady": steady, "crashing": crashing}
    sys.exit(Supervisor(roles, check_reload=check, drain_s=5, ledger=folder / "roles").run())
"""


@pytest.fixture
def supervised(supervisor, tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A supervisor, and its folder."""
    return supervisor, tmp_path


@pytest.fixture
def supervisor(tmp_path: Path):
    """A supervisor of two roles in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        start_new_session=True,
    )
    wait_for("both roles", lambda: _pids(tmp_path, "steady") and _pids(tmp_path, "crashing"))
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_role_that_dies_is_started_again(supervisor, tmp_path: Path) -> None:
    first = _pids(tmp_path, "crashing")[0]

    os.kill(first, signal.SIGKILL)

    wait_for("a second life", lambda: len(_pids(tmp_path, "crashing")) == 2)
    assert len(_pids(tmp_path, "steady")) == 1


def test_roles_end_when_the_supervisor_is_killed(supervisor, tmp_path: Path) -> None:
    children = _pids(tmp_path, "steady") + _pids(tmp_path, "crashing")

    supervisor.kill()
    supervisor.wait()

    wait_for("their end", lambda: not any(_alive(pid) for pid in children))


def test_sigterm_lets_roles_finish_what_they_have_in_hand(supervisor, tmp_path: Path) -> None:
    supervisor.terminate()

    assert supervisor.wait(10) == 0
    assert (tmp_path / "drained").exists()


def test_a_role_that_is_only_just_made_hears_sigterm(tmp_path: Path) -> None:
    program = """
    import os, signal, sys, time
    from node.pipeline.signals import Signals
    from node.process.supervise import Supervisor

    listen = Signals.listen

    def listen_late(signals):
        os.kill(os.getppid(), signal.SIGTERM)  # which passes it on to a child that does not listen
        time.sleep(0.5)
        listen(signals)

    Signals.listen = listen_late

    def only(signals):
        signals.stop.wait()

    sys.exit(Supervisor({"only": only}, check_reload=lambda: None, drain_s=20).run())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == 0


def test_sighup_reaches_the_roles(supervisor, tmp_path: Path) -> None:
    supervisor.send_signal(signal.SIGHUP)

    wait_for("the reload", (tmp_path / "reloaded").exists)


def test_sighup_with_an_invalid_file_changes_nothing(supervisor, tmp_path: Path) -> None:
    (tmp_path / "bad").touch()

    supervisor.send_signal(signal.SIGHUP)

    wait_for("the refusal", (tmp_path / "refused").exists)
    assert not (tmp_path / "reloaded").exists()
    assert supervisor.poll() is None


def test_process_1_of_a_container_takes_the_orphans_of_its_roles(tmp_path: Path) -> None:
    # PR_SET_CHILD_SUBREAPER: orphans come to the supervisor, as they come to process 1
    program = """
        import ctypes, os, subprocess, sys
        from node.process.supervise import Supervisor

        def role(signals):
            if os.path.exists(sys.argv[1]):
                signals.stop.wait()
                return
            child = subprocess.Popen(["sleep", "0.2"])
            with open(sys.argv[1], "w") as file:
                file.write(str(child.pid))
            os.kill(os.getpid(), 9)

        assert ctypes.CDLL(None).prctl(36, 1) == 0
        sys.exit(Supervisor({"role": role}, check_reload=lambda: None, drain_s=5).run())
    """
    orphan = tmp_path / "orphan"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(orphan)])

    try:
        pid = int(wait_for("the orphan", lambda: orphan.exists() and orphan.read_text()))

        wait_for("its end, and no zombie", lambda: not Path(f"/proc/{pid}").exists())
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_a_role_that_ran_well_for_long_is_started_again_at_once(tmp_path: Path) -> None:
    program = """
        import os, sys
        from node.process import supervise

        def role(signals):
            if os.path.exists(sys.argv[1]):
                os.mkdir(sys.argv[1] + ".again")
                signals.stop.wait()
                return
            os.mkdir(sys.argv[1])
            os.kill(os.getpid(), 9)

        supervise._HEALTHY_AFTER_S = 0.0
        roles = {"role": role}
        sys.exit(supervise.Supervisor(roles, check_reload=lambda: None, drain_s=5).run())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "life")]
    )

    try:
        wait_for("its second life", (tmp_path / "life.again").exists)
    finally:
        process.terminate()
        assert process.wait(10) == 0


HANGING = """
    import os, signal, sys, time
    from pathlib import Path
    from node.observe import beats
    from node.process import supervise

    folder = Path(sys.argv[1])

    def role(signals):
        lives = folder / "lives"
        lives.mkdir(exist_ok=True)
        (lives / str(os.getpid())).touch()
        while not signals.stop.wait(0.02):
            beats.beat("loop", 0.5)

    supervise.HUNG_S, supervise._LOOK_S = float(sys.argv[2]), 0.1
    supervise._HEALTHY_AFTER_S = 1.0
    roles = {"role": role}
    sys.exit(supervise.Supervisor(
        roles, check_reload=lambda: None, drain_s=5, ledger=folder / "roles"
    ).run())
"""


def hanging(folder: Path, hung_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(HANGING), str(folder), str(hung_s)]
    return subprocess.Popen(command)


def only_role(folder: Path) -> RoleState | None:
    roles = state_in(folder / "roles").roles
    goes_round = any("loop" in due_in(path) for path in (folder / "roles").glob("*.role.beats"))
    return roles[0] if len(roles) == 1 and roles[0].child and goes_round else None


def test_a_stopped_role_is_seen_and_well_again_when_it_goes_on(tmp_path: Path) -> None:
    process = hanging(tmp_path, 600.0)
    try:
        role = wait_for("the role", lambda: only_role(tmp_path))
        assert (role.silent_s, role.failures) == (0.0, 0)

        os.kill(role.child, signal.SIGSTOP)
        silent = wait_for("its silence", lambda: silence(tmp_path))
        os.kill(role.child, signal.SIGCONT)

        assert silent.loop == "loop"
        wait_for("its next round", lambda: not silence(tmp_path))
        assert only_role(tmp_path).child == role.child
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert state_in(tmp_path / "roles") == NodeState()


def test_a_role_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    process = hanging(tmp_path, 0.3)
    try:
        role = wait_for("the role", lambda: only_role(tmp_path))

        os.kill(role.child, signal.SIGSTOP)

        wait_for("another life", lambda: len(list((tmp_path / "lives").iterdir())) == 2)
        again = wait_for("what the ledger says", lambda: only_role(tmp_path))
        assert again.child != role.child
        assert (again.failures, again.status) in ((1, signal.SIGKILL), (0, signal.SIGKILL))
        wait_for("its failures are forgotten", lambda: only_role(tmp_path).failures == 0)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def silence(folder: Path) -> RoleState | None:
    role = only_role(folder)
    return role if role is not None and role.silent_s else None


def test_a_refused_reload_stands_in_the_ledger_until_one_is_taken(
    supervised: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, folder = supervised
    (folder / "bad").touch()

    process.send_signal(signal.SIGHUP)

    wait_for("the refusal", lambda: "mended wrongly" in state_in(folder / "roles").refused)
    (folder / "bad").unlink()
    process.send_signal(signal.SIGHUP)
    wait_for("the reload", lambda: not state_in(folder / "roles").refused)


def test_a_second_serve_on_one_data_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_folder, "LOCK_WAIT_S", 0.1)
    with (
        data_folder.lock_data_folder(tmp_path, shared=False),
        pytest.raises(ConfigInvalid, match="another segnode serve"),
    ):
        data_folder.lock_data_folder(tmp_path, shared=False)

    data_folder.lock_data_folder(tmp_path, shared=False).close()


def _pids(folder: Path, role: str) -> list[int]:
    path = folder / f"{role}.pid"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
