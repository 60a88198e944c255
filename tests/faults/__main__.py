"""Attacks a node and says whether anybody noticed: ``python -m tests.faults [--only PATTERN] [HOST:PORT --yes]``.

Without an address a node of its own is started on the loopback interface, with all roles, in a fresh folder,
and its memory, log and folder are looked at as well. A node of somebody else is attacked with ``--yes`` only,
and only where it answers as a segnode does: no other system is to be tried by this. Every case is answered
as it should be; beside it and behind it an honest C-ECHO, storescu and STOW client are served in twice their
quiet time and 0.2 s, ``/healthz`` in 1 s; no process takes more than 400 MB, and what it took it gives back.
The exit code is 1 where one case is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from node.domain.uids import IMPLEMENTATION_CLASS_UID
from tests.bench.report import machine, shown, table
from tests.faults.case import Case, Target
from tests.faults.honest import Honest
from tests.faults.suite import Suite, Verdict, all_cases
from tests.faults.watch import Watch, own_node
from tests.support import raw_dimse as raw


def main(arguments: list[str] | None = None) -> int:
    """Attack, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", help="the DIMSE port of a node")
    parser.add_argument("--yes", action="store_true", help="attack a node that is not ours")
    parser.add_argument("--called", default="SEGNODE", metavar="TITLE", help="its AE title")
    parser.add_argument("--http", type=int, default=0, metavar="PORT", help="its HTTP port")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name it fits")
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--untimed", action="store_true", help="show times, and judge none")
    parser.add_argument("--list", action="store_true", help="name the cases, and send nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what came here")
    options = parser.parse_args(arguments)
    if options.address and not options.yes:
        parser.error(f"{options.address} may serve patients: --yes says that it may be attacked")
    with ExitStack() as stack:
        if options.list:
            target, watch = Target(dicom_port=1, http_port=1), None
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="segnode-faults-")))
            target, watch = stack.enter_context(_node(options, folder))
        cases = [case for case in all_cases(target) if _is_wanted(case, options)]
        if options.list:
            for case in cases:
                print(f"{case.title}: {case.expected.sentence}")
            return 0
        if not cases:
            parser.error(f"no case is called {options.only}")
        (folder / "honest").mkdir()
        suite = Suite(
            target=target,
            honest=Honest(target, folder / "honest"),
            watch=watch,
            is_timed=not options.untimed,
        )
        verdicts = []
        print(machine(), flush=True)
        for verdict in suite.run(cases):
            print(_line(verdict), flush=True)
            verdicts.append(verdict)
        _print_table(verdicts, suite)
    if options.json:
        body = {"machine": machine(), "cases": [verdict.to_json() for verdict in verdicts]}
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    wrong = sum(not verdict.is_right for verdict in verdicts)
    print(f"{len(verdicts)} cases, {wrong} wrong")
    return 1 if wrong else 0


@contextmanager
def _node(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Target, Watch | None]]:
    if not options.address:
        with own_node(folder / "own") as own:
            yield own
        return
    host, _, port = options.address.rpartition(":")
    target = Target(host=host, dicom_port=int(port), http_port=options.http, called=options.called)
    with target.line() as client:
        answer = client.request(called=target.called.encode())
        if answer.kind != raw.ASSOCIATE_AC:
            sys.exit(
                f"{options.address} does not let the caller RAW in: make it a peer for the time"
            )
        if raw.user_information(answer).get(0x52, b"").decode() != IMPLEMENTATION_CLASS_UID:
            sys.exit(f"{options.address} is no segnode: nothing is sent")
    yield target, None


def _is_wanted(case: Case, options: argparse.Namespace) -> bool:
    is_asked = re.search(options.only, case.title, re.IGNORECASE) is not None
    return is_asked and not (options.quick and case.is_long)


def _line(verdict: Verdict) -> str:
    word = "right" if verdict.is_right else "WRONG"
    line = f"{word} {verdict.case.title}: {verdict.answer or 'no answer'} ({verdict.took_s:.1f} s)"
    return "\n      ".join([line, *verdict.faults, *verdict.slow])


def _print_table(verdicts: list[Verdict], suite: Suite) -> None:
    print("\n" + "\n".join(table([verdict.row for verdict in verdicts])))
    quiet = ", ".join(f"{name} {shown(seconds)} s" for name, seconds in suite.first_quiet.items())
    print(f"in quiet, at first: {quiet}")
    if suite.watch is not None:
        now, first = suite.watch.resident(), suite.watch.first_mb
        grown = sum(now[each] - first[each] for each in now.keys() & first.keys())
        print(f"all processes together hold {shown(grown)} MB more than before the first case")


if __name__ == "__main__":
    sys.exit(main())
