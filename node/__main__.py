"""``python -m node`` is ``segnode``."""

import os
import signal


def _start() -> None:
    if os.getpid() == 1:
        # process 1 of a container has no default actions: without this SIGTERM does nothing
        # until ``serve`` listens for it, and a container that just started cannot be stopped
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from node.cli import main

    main()


_start()
