"""One node per data folder: the lock that says so."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from node.domain.errors import ConfigInvalid

LOCK_WAIT_S = 5.0


def roles_folder(data_dir: Path) -> Path:
    """Where supervisors write down how their processes are."""
    return data_dir / "run" / "roles"


def lock_data_folder(data_dir: Path, *, shared: bool) -> IO[str]:
    """Take the lock on a data folder; keep the returned file open for as long as it is needed.

    Args:
        shared: True for a supervisor that runs only some of the roles; several may.
    Raises:
        ConfigInvalid: Another ``segnode serve`` runs on this folder, or nothing can be written there.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("a+")
    except OSError as error:
        raise ConfigInvalid([("data_dir", unwritable(data_dir, error))]) from None
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            # the children of a supervisor that was killed hold it for a moment longer
            if time.monotonic() > deadline:
                lock.close()
                raise ConfigInvalid(
                    [("data_dir", f"another segnode serve runs on {data_dir}; stop it first")]
                ) from None
            time.sleep(0.05)
        else:
            return lock


def unwritable(data_dir: Path, error: OSError) -> str:
    """What to do about a data folder in which nothing can be made."""
    why = (error.strerror or type(error).__name__).lower()
    return (
        f"{data_dir} cannot be written to ({why}): mount it writable, "
        "give it to the user that segnode runs as, or name another folder"
    )
