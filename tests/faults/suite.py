"""Runs cases one after the other, each between a look at the node and another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from threading import Event, Thread
from typing import Any

from tests.bench.report import Row
from tests.faults import content, crowds, framing, web
from tests.faults.case import Case, Target
from tests.faults.honest import (
    ECHO_S,
    PROBE_S,
    Honest,
    NotServed,
    limit_of,
    median_of_three,
)
from tests.faults.watch import Watch
from tests.support.peers import Node
from tests.support.waiting import eventually

# a machine may be busy with something else: what was only slow is tried again, with the quiet time anew
_TRIES = 3
_BUSIER = 2.0
# between two rounds of honest peers while an attack goes on
_REST_S = 1.0
_ROUNDS_WITHOUT_REST = 3
_SAMPLE_S = 0.05
_SHOWN_S = 30.0


def all_cases(target: Target) -> list[Case]:
    """What can be sent to this node."""
    found = [*framing.cases(), *content.cases(), *crowds.cases(has_tls=target.tls is not None)]
    if target.http_port:
        found += web.cases()
    return [case for case in found if target.http_port or not case.on_http]


@dataclass(kw_only=True)
class Verdict:
    """What came of one case.

    Args:
        slow: Honest peers that were served, but late.
        faults: Everything else that is wrong.
    """

    case: Case
    answer: str
    faults: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def is_right(self) -> bool:
        return not self.faults and not self.slow

    @property
    def row(self) -> Row:
        """A line of the table."""
        return {
            "case": self.case.title[:58],
            "answer": self.answer[:34],
            **{name: self.figures.get(name, "") for name in _COLUMNS},
            "s": self.took_s,
            "": "" if self.is_right else "WRONG",
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.case.id,
            "name": self.case.name,
            "expected": self.case.expected.sentence,
            "answer": self.answer,
            "is_right": self.is_right,
            "faults": [*self.faults, *self.slow],
            "figures": self.figures,
            "took_s": self.took_s,
        }


_COLUMNS = ("store x", "stow x", "series x", "echo, s", "probe, s", "peak, MB", "grown, MB")


@dataclass(kw_only=True)
class Suite:
    """The node under attack, and how it does in quiet.

    Args:
        watch: None where the node is not ours.
        is_timed: Whether it is wrong to be slow.
    """

    target: Target
    honest: Honest
    watch: Watch | None
    is_timed: bool
    quiet: dict[str, float] = field(default_factory=dict)
    first_quiet: dict[str, float] = field(default_factory=dict)

    def run(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """The verdict of each case, when it is there."""
        self.listen_to_quiet()
        for case in cases:
            for _ in range(_TRIES):
                verdict = self._verdict(case)
                if verdict.faults or not verdict.slow:
                    break
                self.listen_to_quiet()
            yield verdict

    def listen_to_quiet(self) -> None:
        """Measure honest peers while nobody attacks.

        What an attack left behind makes nothing quiet: a later measure is believed up to twice the first.
        """
        measures = self._peers(True)
        if self.watch is not None:
            measures["series"] = partial(self.honest.job, self.watch.node)
        measured = {name: median_of_three(measure) for name, measure in measures.items()}
        self.first_quiet = self.first_quiet or measured
        self.quiet = {
            name: min(seconds, _BUSIER * self.first_quiet[name])
            for name, seconds in measured.items()
        }

    def _peers(self, on_http: bool) -> dict[str, Callable[[], float]]:
        honest, found = self.honest, {"echo": self.honest.echo, "store": self.honest.store}
        if self.target.http_port:
            found["probe"] = honest.probe
            if on_http:
                found["stow"] = honest.stow
        return found

    def _verdict(self, case: Case) -> Verdict:
        began_s = time.monotonic()
        if self.watch is not None:
            self.watch.begin()
        verdict = Verdict(case=case, answer="")
        times: dict[str, list[float]] = {}
        with ThreadPoolExecutor(2) as pool, self._sampling():
            attack = pool.submit(case.attack, self.target)
            beside = None
            if case.beside and self.watch is not None:
                beside = pool.submit(self.honest.job, self.watch.node)
            rounds = 0
            while not rounds or not attack.done():
                self._round(case, times, verdict)
                rounds += 1
                if rounds >= _ROUNDS_WITHOUT_REST and not attack.done():
                    time.sleep(_REST_S)
            self._take_answer(case, verdict, attack.result)
            if beside is not None:
                self._take_series(verdict, beside.result)
        self._round(case, times, verdict)
        self._judge_times(times, verdict)
        if case.kept_aside and self.watch is not None:
            self._look_aside(case, self.watch.node, verdict)
        if self.watch is not None:
            faults, figures = self.watch.end()
            verdict.faults += faults
            verdict.figures |= figures
        verdict.took_s = time.monotonic() - began_s
        return verdict

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Look at the node's memory again and again."""
        is_over = Event()

        def sample() -> None:
            while self.watch is not None and not is_over.wait(_SAMPLE_S):
                self.watch.sample()

        thread = Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _round(self, case: Case, times: dict[str, list[float]], verdict: Verdict) -> None:
        for name, measure in self._peers(case.on_http).items():
            try:
                times.setdefault(name, []).append(measure())
            except (NotServed, OSError) as unserved:
                verdict.faults.append(f"an honest peer was not served: {unserved}")

    def _take_answer(self, case: Case, verdict: Verdict, result: Callable[[], str]) -> None:
        try:
            verdict.answer = result()
        except (OSError, AssertionError, KeyError) as error:
            verdict.answer = f"{type(error).__name__}: {error}"
        if not case.expected.holds(verdict.answer):
            verdict.faults.append(f"answered {verdict.answer!r}, not {case.expected.sentence}")

    def _take_series(self, verdict: Verdict, result: Callable[[], float]) -> None:
        try:
            took_s = result()
        except (NotServed, OSError, AssertionError) as error:
            verdict.faults.append(f"an honest series did not become a job: {error}")
            return
        self._compare("series", took_s, verdict)

    def _judge_times(self, times: dict[str, list[float]], verdict: Verdict) -> None:
        for name, took_s in times.items():
            if not took_s:
                continue
            if name in ("echo", "probe"):
                verdict.figures[f"{name}, s"] = max(took_s)
                limit_s = ECHO_S if name == "echo" else PROBE_S
                if self.is_timed and max(took_s) > limit_s:
                    verdict.slow.append(f"{name} took {max(took_s):.2f} s")
            else:
                self._compare(name, median(took_s), verdict)

    def _compare(self, name: str, took_s: float, verdict: Verdict) -> None:
        quiet_s = self.quiet[name]
        verdict.figures[f"{name} x"] = took_s / quiet_s
        if self.is_timed and took_s > limit_of(quiet_s):
            verdict.slow.append(f"{name} took {took_s:.2f} s, in quiet {quiet_s:.2f}")

    def _look_aside(self, case: Case, node: Node, verdict: Verdict) -> None:
        """What was refused or held says why, to whoever asks the node."""

        def is_shown() -> bool:
            refused = [row["reason"] for row in node.api("/quarantine?limit=10")["items"]]
            held = [row["sentence"] for row in node.api("/series?state=held&limit=10")["items"]]
            return any(case.kept_aside in words for words in (*refused, *held))

        if not eventually(is_shown, _SHOWN_S):
            verdict.faults.append(f"neither quarantine nor series show {case.kept_aside!r}")
