"""Words for what is the matter with the node, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from node.domain.health import COUNTED, Finding, Health
from node.domain.health import HealthCode as Code


def show_count(number: int) -> str:
    """A number of rows, of which no more than ``COUNTED`` were counted."""
    return f"{number} or more" if number >= COUNTED else str(number)


def _clock(ahead_s: int, **_: Any) -> str:
    side = "ahead" if ahead_s > 0 else "behind"
    return (
        f"the clock was set: times that the node writes are {abs(ahead_s)} s {side} of it, and come "
        "back by a tenth"
    )


def _certificate(name: str, ends: str, days: int, **_: Any) -> str:
    if days < 0:
        return f"the certificate of {name} ended on {ends}: nobody accepts it any more"
    return f"the certificate of {name} ends on {ends}, in {days} days"


# of a finding: what is the matter, a template over its facts or a function of them; and what to do
_WORDS: Mapping[Code, tuple[str | Callable[..., str], str]] = {
    Code.DISK: (
        "{told}: new instances are refused",
        "make room; see storage.reserve_gb and storage.max_used_percent",
    ),
    Code.DATABASE: (
        "{told}: new instances are refused",
        "bring the database back; the node goes on by itself",
    ),
    Code.ROLE_GONE: (
        "the process {subject} ended ({how}), {times} times by now, and is started again",
        "look at the log; while it is away its part of the work waits",
    ),
    Code.ROLE_SILENT: (
        "the process {subject} does not come round: its loop {loop} is late by {seconds} s",
        "nothing, at first: it is ended and started again when it stays so for a minute",
    ),
    Code.ROLE_RESTARTED: (
        "the process {subject} ended ({how}) and was started again",
        "look at the log",
    ),
    Code.RELOAD_REFUSED: (
        "the configuration on disk is not in force: {told}",
        "mend it (segnode check-config), then send SIGHUP",
    ),
    Code.HELD: ("{count} series wait for a person", "segnode series list --state held"),
    Code.PARKED: ("{count} series cannot run", "segnode jobs list --matches"),
    Code.IMPLAUSIBLE: (
        "{count} results are implausible and not delivered",
        "segnode jobs list --state implausible",
    ),
    Code.BLOCKED: (
        "{count} results cannot be delivered",
        "segnode deliveries list --state blocked",
    ),
    Code.QUARANTINE_FULL: (
        "quarantine holds {used_gb} of {most_gb} GB: soon nothing more is kept of what is refused",
        "segnode quarantine list, then accept or discard",
    ),
    Code.QUARANTINE_GROWS: (
        "{count} instances were refused in the last hour",
        "segnode quarantine list says why",
    ),
    Code.JOBS_TRIED_AGAIN: (
        "{count} jobs failed and wait to be tried again",
        "segnode jobs list --state queued says why",
    ),
    Code.QUEUE_LATE: (
        "a job has waited for {minutes} minutes",
        "segnode jobs list --state queued; more workers help (work.devices, work.workers)",
    ),
    Code.DESTINATION_SICK: (
        "the destination {subject} did not take what it was sent (failures in a row: {failures})",
        "see to it; then segnode deliveries retry --destination {subject}",
    ),
    Code.CLOCK: (_clock, "keep the clock of the machine by NTP"),
    Code.CERTIFICATE: (
        _certificate,
        "renew it; the node reads a renewed file by itself ({subject})",
    ),
}


def tell_finding(finding: Finding) -> str:
    """What is the matter."""
    words, _ = _WORDS[finding.code]
    return words(**_facts(finding)) if callable(words) else words.format(**_facts(finding))


def tell_what_to_do(finding: Finding) -> str:
    """Who can do something about it finds here what."""
    return _WORDS[finding.code][1].format(**_facts(finding))


def show_finding(finding: Finding) -> dict[str, Any]:
    """A finding for people and programs."""
    return {
        "code": finding.code.value,
        "subject": finding.subject,
        "facts": dict(finding.facts),
        "sentence": tell_finding(finding),
        "do": tell_what_to_do(finding),
    }


def show_degraded(health: Health) -> dict[str, str]:
    """Code -> one sentence with what to do, several of one code after each other.

    Shown to everybody: it holds counts, names of the configuration and commands, and no patient.
    """
    told: dict[str, list[str]] = {}
    for finding in health.findings:
        sentence = f"{tell_finding(finding)}: {tell_what_to_do(finding)}"
        told.setdefault(finding.code.value, []).append(sentence)
    return {code: "; ".join(sentences) for code, sentences in told.items()}


def _facts(finding: Finding) -> dict[str, Any]:
    facts = {"subject": finding.subject, **finding.facts}
    return {**facts, "count": show_count(facts["count"])} if "count" in facts else facts
