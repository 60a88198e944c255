"""One node per data folder: the lock that says so."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from node.domain.errors import ConfigInvalid

LOCK_WAIT_S = 5.0


def lock_data_folder(data_dir: Path, *, shared: bool) -> IO[str]:
    """Take the lock on a data folder; keep the returned file open for as long as it is needed.

    Args:
        shared: True for a supervisor that runs only some of the roles; several may.
    Raises:
        ConfigInvalid: Another ``segnode serve`` runs on this folder.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = (data_dir / "lock").open("a+")
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
