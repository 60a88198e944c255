"""The watermark: is there room for one more instance?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_GIGABYTE = 1_000_000_000
_CACHE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """Where the node stops taking instances, before the disk does it."""

    reserve_gb: float = 5.0
    max_used_percent: float = 85.0


class SpaceGuard:
    """Watches the file system that holds a folder; looks again after a quarter of a second."""

    def __init__(
        self,
        folder: Path,
        watermark: Watermark,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._watermark = watermark
        self._monotonic_s = monotonic_s
        self._looked_at = float("-inf")
        self._shortage = ""

    @property
    def shortage(self) -> str:
        """One sentence when there is no room, else empty."""
        now = self._monotonic_s()
        if now - self._looked_at >= _CACHE_S:
            self._shortage = self._look()
            self._looked_at = now
        return self._shortage

    def forget(self) -> None:
        """Look again at the next question: something was just deleted, or failed to be written."""
        self._looked_at = float("-inf")

    def _look(self) -> str:
        disk = os.statvfs(self._folder)
        free_gb = disk.f_bavail * disk.f_frsize / _GIGABYTE
        usable = disk.f_blocks - disk.f_bfree + disk.f_bavail
        used_percent = 100.0 * (1 - disk.f_bavail / usable) if usable else 100.0
        if free_gb < self._watermark.reserve_gb:
            return f"{free_gb:.1f} GB free, {self._watermark.reserve_gb:g} GB are kept in reserve"
        if used_percent > self._watermark.max_used_percent:
            limit = self._watermark.max_used_percent
            return f"the disk is {used_percent:.0f} % full, the limit is {limit:g} %"
        if disk.f_files and not disk.f_favail:
            return "no inode is left on the disk"
        return ""
