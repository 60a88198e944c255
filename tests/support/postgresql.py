"""A PostgreSQL server of a test's own, from what Debian installed."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from tests.support.peers import free_port


def programs() -> Path | None:
    """The folder of the newest PostgreSQL that is installed; None where there is none."""
    return max(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
    )


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """A server that is reached over a Unix socket and run by an unprivileged user.

    Returns:
        The URL of a database, with ``{name}`` where its name belongs.
    """
    folder = Path(tempfile.mkdtemp(prefix="segnode-pg-"))
    is_root = os.geteuid() == 0
    user = "postgres" if is_root else getpass.getuser()
    if is_root:
        shutil.chown(folder, user)
    become = ["runuser", "-u", user, "--"] if is_root else []
    control = [*become, str(binaries / "pg_ctl"), "-D", str(folder / "data")]
    port = free_port()
    options = f"-k {folder} -p {port} -c listen_addresses= -c fsync=off"
    try:
        for command in (
            [*control, "init", "-s", "-o", f"-A trust -U {user} -E UTF8 --no-sync"],
            [*control, "start", "-s", "-w", "-o", options, "-l", str(folder / "log")],
        ):
            subprocess.run(command, check=True, cwd="/")
        yield f"postgresql+psycopg://{user}@/{{name}}?host={folder}&port={port}"
    finally:
        subprocess.run([*control, "stop", "-s", "-m", "immediate"], check=False, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


def stop(url: str) -> None:
    """Stop the server of a URL, as for an upgrade of it; whoever is connected is thrown out."""
    subprocess.run([*_control(url), "stop", "-s", "-w", "-m", "fast"], check=True, cwd="/")


def start(url: str) -> None:
    """Start the server of a URL again, as it was started first."""
    data = _folder(url) / "data"
    options = (data / "postmaster.opts").read_text().partition(f'"{data}"')[2]
    command = [*_control(url), "start", "-s", "-w", "-o", options.strip()]
    subprocess.run([*command, "-l", str(_folder(url) / "log")], check=True, cwd="/")


def _folder(url: str) -> Path:
    return Path(str(make_url(url).query["host"]))


def _control(url: str) -> list[str]:
    user = make_url(url).username or ""
    become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    binaries = programs()
    assert binaries is not None
    return [*become, str(binaries / "pg_ctl"), "-D", str(_folder(url) / "data")]


def new_database(url: str, name: str) -> str:
    """Make a database of a server; its URL."""
    engine = create_engine(url.format(name="postgres"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.format(name=name)
