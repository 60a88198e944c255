"""What a supervisor tells the loops: stop, reload."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signals:
    """What the supervisor tells a role: ``stop`` once, ``reload`` whenever the file changed."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        """Turn SIGTERM and SIGINT into ``stop`` and SIGHUP into ``reload``, in this process."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        signal.signal(signal.SIGINT, lambda *_: self.stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self.reload.set())
