"""Reasons, and the rows that keep them, as people and programs see them.

A reason is said by one line of a table: a template over its facts, the first of several templates that
they fill, or a function of them. In a template the format of a sequence stands between its parts, and
that of a yes or no says ``yes|no``. A row shows its reasons as codes, and a sentence with what frees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from string import Formatter
from typing import Any, TypeAlias

from node.domain.instance import SeriesState
from node.domain.job import DeliveryState, JobState, MatchState
from node.domain.reasons import (
    IMPLAUSIBLE_CODES,
    Facts,
    Reason,
    ReasonCode,
    codes_of,
    reasons_from_json,
)
from node.words import gate, journey
from node.words.journey import no_model_takes_it

Row: TypeAlias = Mapping[str, Any]


class Audience(StrEnum):
    """Whose commands a hint names."""

    NODE = "node"
    RUN = "run"
    RUN_OF_MODELS = "run_of_models"  # ``segnode run`` without rules of a person


# what frees a series that is held: for a node, and for ``segnode run``
_OF_HELD: Mapping[ReasonCode, tuple[str, str]] = {
    ReasonCode.IMAGES_REFUSED: ("; go on without them with: ", "segnode series proceed {uid}"),
    ReasonCode.COUNT_NOT_REACHED: ("; free it with: ", "segnode series proceed {uid}"),
    ReasonCode.LATE_IMAGES: ("; run again with: ", "segnode series rerun {uid}"),
    ReasonCode.NOT_JUDGED: ("; to leave it alone: ", "segnode series discard {uid}"),
    ReasonCode.PROCESS_DIED: ("; to try it again: ", "segnode series rerun {uid}"),
}
_OF_RUN: Mapping[ReasonCode, str] = {ReasonCode.IMAGES_REFUSED: "--proceed"}
_AMBIGUOUS = frozenset(
    (ReasonCode.SEVERAL_SERIES_FIT, ReasonCode.BEST_FOR_ROLES, ReasonCode.PATIENTS_DIFFER)
)
_WAITING = frozenset((ReasonCode.ROLE_EMPTY, ReasonCode.ONE_SERIES_FOR_ROLES))
_NOTHING_FREES = frozenset((ReasonCode.NO_INPUT, ReasonCode.TOLD))
_TELLINGS: Mapping[ReasonCode, str | tuple[str, ...] | Callable[..., str]]
_TELLINGS = {**gate.TELLINGS, **journey.TELLINGS}

# facts that any reason may have: whom it is about, and which attempt it ended
_ABOUT = ("role", "instance", "attempt", "attempts", "is_tried_again")


def show_series(row: Row, audience: Audience = Audience.NODE) -> dict[str, Any]:
    """A row of the catalog of series; of a whole one also the findings of its gate."""
    reasons = reasons_from_json(row["reasons"])
    shown = _show(row, reasons, _hint_of_series(row, reasons, audience), audience)
    if row.get("gate"):
        findings = reasons_from_json(row["gate"]["findings"])
        shown["gate"] = {
            "findings": [tell(finding) for finding in findings],
            "reasons": codes_of(findings),
            "notes": [tell(note) for note in reasons_from_json(row["gate"]["notes"])],
        }
    return shown


def show_match(row: Row, audience: Audience = Audience.NODE) -> dict[str, Any]:
    """What a rule decided; one with a job says what its job says."""
    reasons = reasons_from_json(row["reasons"])
    if row["job_id"] is not None:
        hint = _hint_of_job(row["job_id"], row["state"], reasons, audience)
    else:
        hint = _hint_of_match(row, reasons, audience)
    return _show(row, reasons, hint, audience)


def show_job(row: Row, audience: Audience = Audience.NODE) -> dict[str, Any]:
    """A job; of a whole one also its matches and deliveries."""
    reasons = reasons_from_json(row["reasons"])
    hint = _hint_of_job(row["id"], row["state"], reasons, audience)
    shown = _show(row, reasons, hint, audience)
    for name, show in (("matches", show_match), ("deliveries", show_delivery)):
        if name in row:
            shown[name] = [show(each, audience) for each in row[name]]
    return shown


def show_delivery(row: Row, audience: Audience = Audience.NODE) -> dict[str, Any]:
    is_blocked = row["state"] == DeliveryState.BLOCKED
    hint = f": deliveries retry {row['id']} tries again" if is_blocked else ""
    return _show(row, reasons_from_json(row["reasons"]), hint, audience)


def _show(row: Row, reasons: Sequence[Reason], hint: str, audience: Audience) -> dict[str, Any]:
    said = _said(reasons, audience)
    return {**row, "reasons": codes_of(reasons), "sentence": said + hint if said else ""}


def _said(reasons: Sequence[Reason], audience: Audience) -> str:
    """What is implausible first, then what was found, then the rest."""
    implausible = tell_all(each for each in reasons if each.code in IMPLAUSIBLE_CODES)
    others = [each for each in reasons if each.code not in IMPLAUSIBLE_CODES]
    others.sort(key=lambda each: each.code is not ReasonCode.NOTHING_FOUND)
    told = [no_model_takes_it(**each.facts) for each in others if _is_of_models(each, audience)]
    told.append(tell_all(each for each in others if not _is_of_models(each, audience)))
    parts = [f"implausible: {implausible}" if implausible else "", *told]
    return "; ".join(filter(None, parts))


def _is_of_models(reason: Reason, audience: Audience) -> bool:
    """Whether it tells of rules that were made for models: nobody has written any."""
    is_silence = reason.code is ReasonCode.NO_RULE_FIRED and "rules" in reason.facts
    return is_silence and audience is Audience.RUN_OF_MODELS


def _hint_of_series(row: Row, reasons: Sequence[Reason], audience: Audience) -> str:
    if row["state"] != SeriesState.HELD:
        return ""
    uid = row["series_instance_uid"]
    for reason in reasons:
        if reason.code is ReasonCode.FILES_DELETED and "revision" in reason.facts:
            return f"; to have all of it taken again: segnode series rerun {uid}"
        if reason.code in _OF_HELD:
            lead, command = _OF_HELD[reason.code]
            if audience is not Audience.NODE:
                command = _OF_RUN.get(reason.code, command)
            return lead + command.format(uid=uid)
    return ""


def _hint_of_match(row: Row, reasons: Sequence[Reason], audience: Audience) -> str:
    codes = {reason.code for reason in reasons}
    if codes & _WAITING:
        return ": send it"
    if row["state"] != MatchState.PARKED or not codes or codes & _NOTHING_FREES:
        return ""
    if codes & _AMBIGUOUS:
        return ": leave one out with: segnode series discard UID"
    for reason in reasons:
        if reason.code is ReasonCode.FILES_DELETED and "series" in reason.facts:
            return f": segnode series rerun {reason.facts['series']}"
    if audience is not Audience.NODE:
        return ""
    return f": judge again with: segnode series rerun {next(iter(row['roles'].values()))}"


def _hint_of_job(job_id: int, state: str, reasons: Sequence[Reason], audience: Audience) -> str:
    codes = {reason.code for reason in reasons}
    if state == JobState.IMPLAUSIBLE:
        if audience is Audience.NODE:
            return f": not delivered until: segnode jobs accept {job_id}"
        return ": not written without --accept-implausible"
    if ReasonCode.KILLS_WORKERS in codes:
        return f": jobs retry {job_id} tries again"
    return f": jobs retry {job_id} runs it again" if ReasonCode.CANCELLED in codes else ""


def tell(reason: Reason) -> str:
    """One reason in words; empty where its code says all to programs and nothing to people."""
    facts = reason.facts
    if "told" in facts:
        said = str(facts["told"])
    else:
        own = {name: value for name, value in facts.items() if name not in _ABOUT}
        telling = _TELLINGS[reason.code]
        said = telling(**own) if callable(telling) else _filled(telling, own)
    return _about(facts, said) if said else ""


def tell_all(reasons: Iterable[Reason]) -> str:
    """Several reasons in one line, what is said twice once."""
    return "; ".join(dict.fromkeys(filter(None, map(tell, reasons))))


class _Words(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, tuple):
            return format_spec.join(map(str, value))
        if isinstance(value, bool):
            return format_spec.split("|")[not value]
        return str(super().format_field(value, format_spec))


def _filled(templates: str | tuple[str, ...], facts: Facts) -> str:
    for template in (templates,) if isinstance(templates, str) else templates:
        with suppress(KeyError):
            return _Words().vformat(template, (), facts)
    raise KeyError(f"no template of {templates} is filled by {', '.join(facts)}")


def _about(facts: Facts, said: str) -> str:
    if "instance" in facts:
        said = f"instance {facts['instance']}: {said}"
    if "role" in facts:
        said = f"role {facts['role']}: {said}"
    if "attempt" in facts:
        again = ", tried again" if facts.get("is_tried_again") else ""
        said = f"{said} (attempt {facts['attempt']} of {facts['attempts']}{again})"
    return said
