"""Search for bytes that break a reader: ``python -m tests.fuzz TARGET [SECONDS]``, with atheris installed.

A search is guided by coverage (libFuzzer) and starts from what the fault cases send. What it finds is written
to ``crash-...`` in the working folder; put it into the seeds of ``targets`` once it is mended.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def main() -> None:
    """Search for so many seconds."""
    import atheris

    with atheris.instrument_imports(include=["node"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"name one of {', '.join(TARGETS)}")
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    with TemporaryDirectory(prefix="segnode-fuzz-") as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=10"]
        atheris.Setup([sys.argv[0], folder, *options], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
