"""What an honest peer does beside an attack, and how long it takes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from tests.faults.case import Target
from tests.faults.watch import HONEST_SERIES
from tests.support.http_server import MULTIPART, body_of
from tests.support.instances import ct_slice, part10_bytes
from tests.support.peers import ECHOSCU, STORESCU, Node, need
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

PROBE_S = 1.0
ECHO_S = 2.0
FACTOR, SLACK_S = 2.0, 0.2
_MOST_S = 120.0
_numbers = count(1)
# of this run, so that a node that keeps its folder has seen none of it
_RUN = f"1.2.826.0.1.3680043.8.498.{os.getpid()}.{time.time_ns() // 1_000_000}"


class NotServed(Exception):
    """An honest peer was not served as it should be."""


@dataclass(frozen=True)
class Honest:
    """An honest sender and a probe.

    Args:
        folder: Where it may write what it sends.
    """

    target: Target
    folder: Path

    def echo(self) -> float:
        """C-ECHO by dcmtk; seconds."""
        return self._run(need(ECHOSCU), "-aec", self.target.called, *self._address)

    def store(self) -> float:
        """One CT by dcmtk's storescu; seconds."""
        return self._send(self._image())

    def stow(self) -> float:
        """One CT by STOW-RS; seconds."""
        body = body_of(self._image().read_bytes())
        began_s = time.perf_counter()
        answer = self.target.site.request(
            "POST", "/dicom-web/studies", body, {"Content-Type": MULTIPART}
        )
        if answer.status != 200:
            raise NotServed(f"STOW was answered {answer.status}")
        return time.perf_counter() - began_s

    def probe(self) -> float:
        """``/healthz``; seconds."""
        began_s = time.perf_counter()
        if (status := self.target.site.request("GET", "/healthz").status) != 200:
            raise NotServed(f"/healthz was answered {status}")
        return time.perf_counter() - began_s

    def job(self, node: Node) -> float:
        """Seconds from a series that is sent to the row of its job."""
        series = self._series()
        began_s = time.perf_counter()
        # of a peer of its own: what one peer sends beside it is a reason to wait for more
        self._send(*series.write(self.folder / series.series), calling="MODALITY")
        jobs = f"/jobs?study={series.uid('study')}"
        (job,) = wait_for("the job of an honest series", lambda: node.api(jobs)["items"], _MOST_S)
        took_s = time.perf_counter() - began_s
        wait_for(
            "the end of an honest job",
            lambda: node.api(f"/jobs/{job['id']}")["state"] not in ("queued", "running"),
        )
        return took_s

    @property
    def _address(self) -> tuple[str, str]:
        return self.target.host, str(self.target.dicom_port)

    def _series(self) -> Phantom:
        """A series that nobody has seen, and that a rule of the node takes."""
        name = f"{_RUN}.{next(_numbers)}"
        attributes = (("SeriesDescription", HONEST_SERIES),)
        return Phantom(shape=(12, 40, 48), study=name, series=name, attributes=attributes)

    def _image(self) -> Path:
        number = next(_numbers)
        image = ct_slice(1, side=256)
        image.StudyInstanceUID = image.SeriesInstanceUID = f"{_RUN}.{number}"
        image.SOPInstanceUID = f"{_RUN}.{number}.1"
        path = self.folder / f"{number}.dcm"
        path.write_bytes(part10_bytes(image))
        return path

    def _send(self, *paths: Path, calling: str = "STORESCU") -> float:
        titles = ("-aet", calling, "-aec", self.target.called)
        return self._run(need(STORESCU), *titles, *self._address, *map(str, paths))

    def _run(self, program: str, *arguments: str) -> float:
        began_s = time.perf_counter()
        try:
            done = subprocess.run(
                [program, *arguments],
                capture_output=True,
                env={**os.environ, "TCP_NODELAY": "1"},
                timeout=_MOST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotServed(f"{Path(program).name} waited {_MOST_S:.0f} s") from None
        if done.returncode:
            raise NotServed(f"{Path(program).name} ended with {done.returncode}")
        return time.perf_counter() - began_s


def limit_of(quiet_s: float) -> float:
    """How long an honest sender may take while somebody attacks."""
    return FACTOR * quiet_s + SLACK_S


def median_of_three(measure: Callable[[], float]) -> float:
    return median(measure() for _ in range(3))
