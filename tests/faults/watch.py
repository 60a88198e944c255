"""A node of our own under attack: started as a site starts it, and looked at from outside.

All roles, a fresh folder, DIMSE with and without TLS, HTTP, and one rule that an honest series fits. Nothing
is asked of the node but what ``/proc``, its log, its folder and its API show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from node.domain.tls import ClientTls
from node.tls import client_context
from tests.bench.processes import resident_mb, tree
from tests.faults.case import Target
from tests.faults.content import PATIENT_ID
from tests.support.certificates import Authority
from tests.support.peers import Node, free_port
from tests.support.waiting import eventually

HONEST_SERIES = "honest"
MOST_MB = 400.0
BACK_WITHIN_MB, BACK_WITHIN_S = 50.0, 10.0
# what a log must not hold: patients, errors of the node's own, roles that died, what attacks forge
_WRONG_LINES: Mapping[str, str] = {
    r"Traceback \(most recent call last\)": "a traceback in the log",
    r"role ended": "a role died",
    r"stumbled|error in the node|loop failed": "an error of the node's own",
    rf"{re.escape(PATIENT_ID)}|TOP-SECRET": "a patient or a secret in the log",
    r"^2030-": "a forged line in the log",
}
_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Watch:
    """Looks at a node before and after each case."""

    node: Node
    outside: Path
    read_to: int = 0
    roles: frozenset[int] = frozenset()
    before_mb: Mapping[int, float] = field(default_factory=dict)
    first_mb: Mapping[int, float] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    _sampled_mb: float = 0.0

    @property
    def process_id(self) -> int:
        assert self.node.process is not None
        return self.node.process.pid

    def begin(self) -> None:
        """Remember how things stand; peaks count from here."""
        self._sampled_mb = 0.0
        self.before_mb = self.resident()
        self.first_mb = self.first_mb or self.before_mb
        self.roles = self._roles()
        self.files = self._outside()
        for process_id in self.before_mb:
            with suppress(OSError):
                Path(f"/proc/{process_id}/clear_refs").write_text("5")  # proc(5): resets VmHWM

    def sample(self) -> None:
        """Look at what the processes hold of their own, while a case runs."""
        self._sampled_mb = max(self._sampled_mb, *self._of_all("RssAnon"))

    def _peak_mb(self) -> float:
        """The most that one process had.

        The kernel's own mark counts pages of files that were mapped, which it takes back whenever it likes;
        where these alone lie beyond the bound, what was sampled counts.
        """
        marked_mb = max(self._of_all("VmHWM"))
        return marked_mb if marked_mb <= MOST_MB else self._sampled_mb

    def end(self) -> tuple[list[str], dict[str, float]]:
        """What is wrong after a case, and its figures."""
        peak_mb = self._peak_mb()
        eventually(lambda: self._grown_mb() <= BACK_WITHIN_MB, BACK_WITHIN_S)
        eventually(lambda: not self._parts(), BACK_WITHIN_S)
        faults = self._log_faults()
        if peak_mb > MOST_MB:
            faults.append(f"a process took {peak_mb:.0f} MB")
        if (grown_mb := self._grown_mb()) > BACK_WITHIN_MB:
            faults.append(f"{grown_mb:.0f} MB were not given back")
        if self._parts():
            faults.append("a part was left behind")
        if self._outside() != self.files:
            faults.append("a file outside the data folder")
        if lost := self.roles - self._roles():
            faults.append(f"{len(lost)} of the node's roles died")
        return faults, {"peak, MB": peak_mb, "grown, MB": grown_mb}

    def resident(self) -> dict[int, float]:
        """Resident memory by process."""
        found = {}
        for process_id in tree(self.process_id):
            with suppress(FileNotFoundError, ProcessLookupError):
                found[process_id] = resident_mb(process_id)
        return found

    def _roles(self) -> frozenset[int]:
        """Processes that the supervisor started."""
        found = set()
        for process_id in tree(self.process_id):
            with suppress(FileNotFoundError, ProcessLookupError):
                stat = Path(f"/proc/{process_id}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == self.process_id:
                    found.add(process_id)
        return frozenset(found)

    def _grown_mb(self) -> float:
        """How much more the process that grew most holds than before the case."""
        now = self.resident()
        return max(
            (now[each] - mb for each, mb in self.before_mb.items() if each in now), default=0
        )

    def _of_all(self, name: str) -> list[float]:
        """A figure of each process, MB. Source: proc(5), status"""
        found = [0.0]
        for process_id in tree(self.process_id):
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{process_id}/status").read_text()
                if told := re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE):
                    found.append(int(told[1]) * 1024 / 1e6)
        return found

    def _parts(self) -> list[Path]:
        return list((self.node.data_dir / "spool" / "incoming").iterdir())

    def _outside(self) -> frozenset[str]:
        """All around the node's folder; and the place where attacks would write."""
        found = {
            str(path) for path in self.outside.rglob("*") if self.node.folder not in path.parents
        }
        return frozenset(found | {str(path) for path in Path("/tmp").glob("pwn*")})

    def _log_faults(self) -> list[str]:
        text = self.node.log()
        new, self.read_to = text[self.read_to :], len(text)
        faults = [
            words
            for pattern, words in _WRONG_LINES.items()
            if re.search(pattern, new, re.MULTILINE)
        ]
        # a line that another program would begin in another place than we did
        lines = new.split("\n")[:-1]
        if any(_CONTROLS.search(line) for line in lines):
            faults.append("a control character in the log")
        if any(not _LINE.match(line) for line in lines):
            faults.append("a line in the log that the node did not begin")
        return faults


@contextmanager
def own_node(root: Path) -> Iterator[tuple[Target, Watch]]:
    """A node in a fresh folder."""
    authority = Authority(root / "authority")
    authority.folder.mkdir(parents=True)
    own = authority.sign("127.0.0.1")
    tls_port = free_port()
    tls = {"certificate": str(own.certificate), "key": str(own.key), "port": tls_port}
    # peers, so that the honest ones and those that attack do not share their places
    peers = {
        title.lower(): {"ae_title": title, "host": "127.0.0.1", "port": 11113 + number}
        for number, title in enumerate(("RAW", "STORESCU", "MODALITY", "ECHOSCU"))
    }
    rule = {
        "name": "honest",
        "when": {"Modality": "CT", "SeriesDescription": HONEST_SERIES},
        "run": "ct_tissue",
        "send": [],
    }
    config = {"dimse": {"tls": tls}, "peers": peers, "rules": [rule]}
    node = Node(root / "node", config)
    with node:
        target = Target(
            dicom_port=node.dicom_port,
            http_port=node.http_port,
            tls_port=tls_port,
            tls=client_context(ClientTls(ca=str(authority.file))),
        )
        yield target, Watch(node, root)
