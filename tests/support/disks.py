"""Small file systems for tests: a tmpfs that is soon full, or that can be made read-only."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, mounted on a folder."""

    folder: Path

    @property
    def free_bytes(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    @property
    def free_inodes(self) -> int:
        return os.statvfs(self.folder).f_favail

    def remount(self, options: str) -> None:
        """Change it while it is in use, such as to ``ro``."""
        command = ["mount", "-o", f"remount,{options}", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    def leave_free(self, size_bytes: int) -> Path:
        """Fill it but for so much; the file that does it."""
        filler = self.folder / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - size_bytes)
        return filler


@contextmanager
def small_disk(folder: Path, *, size: str = "64m", inodes: int = 0) -> Iterator[SmallDisk]:
    """A tmpfs on a folder, which is made; without root the test is skipped.

    Args:
        inodes: How many files it may hold; 0: so many as the kernel gives it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class LeastFree:
    """The least room that a file system had while it was watched."""

    disk: SmallDisk
    least_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.least_bytes = self.disk.free_bytes

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.001):
                self.least_bytes = min(self.least_bytes, self.disk.free_bytes)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.least_bytes = min(self.least_bytes, self.disk.free_bytes)
