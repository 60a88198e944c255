"""Where the spool keeps what: the only place that knows the names of its folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SpoolFolders:
    """The folders of a spool.

    Args:
        root: ``<data_dir>/spool``.
    """

    root: Path

    @property
    def incoming(self) -> Path:
        """Files that are being written."""
        return self.root / "incoming"

    @property
    def instances(self) -> Path:
        """Kept instances: the paths of pixels start here."""
        return self.root / "instances"

    @property
    def series(self) -> Path:
        """Markers that say whose series it is."""
        return self.root / "series"

    @property
    def quarantine(self) -> Path:
        """Files that were refused and kept aside for a person."""
        return self.root / "quarantine"

    @classmethod
    def of(cls, data_dir: Path) -> SpoolFolders:
        """Those of a node."""
        return cls(data_dir / "spool")
