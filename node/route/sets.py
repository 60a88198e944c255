"""Sets: one series per role of a study rule, or why not yet.

Never the first one that fits: where two fit equally well, a person decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from node.domain.header import Header
from node.domain.reasons import Reason, ReasonCode
from node.route.conditions import Condition, Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A complete series of the study in question."""

    series_instance_uid: str
    patient_id: str
    header: Header
    slices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one input of the model must be.

    Args:
        prefer: Where several series fit, the ones for which the first of these is true go first,
            then the second, and so on; what is still equal is told apart by the number of slices.
    """

    condition: Condition
    prefer: tuple[Condition, ...] = ()

    def rank(self, candidate: Candidate) -> tuple[int, ...]:
        """Higher is better."""
        wishes = (wish.judge(candidate.header).truth is Truth.TRUE for wish in self.prefer)
        return (*(int(granted) for granted in wishes), candidate.slices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Every role has its series."""

    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Roles without a series; a later one may fill them."""

    missing: tuple[str, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous:
    """More than one choice is as good: parked for a person."""

    roles: tuple[str, ...]
    series_instance_uids: tuple[str, ...]
    reasons: tuple[Reason, ...]


SetChoice: TypeAlias = Chosen | Waiting | Ambiguous
_Fits = dict[str, list[Candidate]]


def choose(roles: Mapping[str, Role], candidates: Sequence[Candidate]) -> SetChoice:
    """Give each role its series; the order of the candidates does not matter.

    A role that only one series fits takes it; then each role takes the best that is left. A series
    fills one role only.
    """
    fits: _Fits = {
        name: [c for c in candidates if role.condition.judge(c.header).truth is Truth.TRUE]
        for name, role in roles.items()
    }
    taken: dict[str, Candidate] = {}
    while fits:
        if missing := tuple(name for name, fitting in fits.items() if not fitting):
            return _waiting(missing, roles, candidates, taken)
        claims = {name: fitting[0] for name, fitting in fits.items() if len(fitting) == 1}
        if rivals := _rivals(claims):
            return _one_for_two(rivals)
        if not claims:
            claims = _claims_of_the_best(roles, fits)
            rivals = _rivals(claims)
            claims = {name: best for name, best in claims.items() if name not in rivals}
        if not claims:
            return _ambiguous(roles, fits)
        taken |= claims
        fits = _without(fits, claims)
    if len({candidate.patient_id for candidate in taken.values()}) > 1:
        return _two_patients(taken)
    return Chosen(roles={name: taken[name].series_instance_uid for name in roles})


def _best(role: Role, fitting: Sequence[Candidate]) -> list[Candidate]:
    top = max(role.rank(candidate) for candidate in fitting)
    return [candidate for candidate in fitting if role.rank(candidate) == top]


def _claims_of_the_best(roles: Mapping[str, Role], fits: _Fits) -> dict[str, Candidate]:
    best = {name: _best(roles[name], fitting) for name, fitting in fits.items()}
    return {name: winners[0] for name, winners in best.items() if len(winners) == 1}


def _rivals(claims: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The claims on a series that another role claims as well."""
    count = Counter(candidate.series_instance_uid for candidate in claims.values())
    return {name: c for name, c in claims.items() if count[c.series_instance_uid] > 1}


def _without(fits: _Fits, claims: Mapping[str, Candidate]) -> _Fits:
    gone = {candidate.series_instance_uid for candidate in claims.values()}
    return {
        name: [c for c in fitting if c.series_instance_uid not in gone]
        for name, fitting in fits.items()
        if name not in claims
    }


def _waiting(
    missing: tuple[str, ...],
    roles: Mapping[str, Role],
    candidates: Sequence[Candidate],
    taken: Mapping[str, Candidate],
) -> Waiting:
    """Name the empty roles, and what is not known about the series that might have filled them."""
    used = {candidate.series_instance_uid for candidate in taken.values()}
    empty = []
    for name in missing:
        unknown: set[str] = set()
        for candidate in candidates:
            verdict = roles[name].condition.judge(candidate.header)
            if candidate.series_instance_uid not in used and verdict.truth is Truth.UNKNOWN:
                unknown |= {leaf.name for leaf in verdict.leaves() if leaf.truth is Truth.UNKNOWN}
        empty.append((name, sorted(unknown)))
    return Waiting(missing=missing, reasons=(Reason(ReasonCode.ROLE_EMPTY, {"empty": empty}),))


def _one_for_two(rivals: Mapping[str, Candidate]) -> Waiting:
    """Two roles that only one and the same series fits: one of them lacks a series."""
    uid = min(candidate.series_instance_uid for candidate in rivals.values())
    names = tuple(name for name, c in rivals.items() if c.series_instance_uid == uid)
    only = Reason(ReasonCode.ONE_SERIES_FOR_ROLES, {"series": uid, "roles": names})
    return Waiting(missing=names, reasons=(only,))


def _ambiguous(roles: Mapping[str, Role], fits: _Fits) -> Ambiguous:
    for name, fitting in fits.items():
        uids = tuple(sorted(c.series_instance_uid for c in _best(roles[name], fitting)))
        if len(uids) > 1:
            fit = Reason(ReasonCode.SEVERAL_SERIES_FIT, {"fitted_role": name, "series": uids})
            return Ambiguous(roles=(name,), series_instance_uids=uids, reasons=(fit,))
    rivals = _rivals(_claims_of_the_best(roles, fits))
    uid = min(candidate.series_instance_uid for candidate in rivals.values())
    names = tuple(name for name, c in rivals.items() if c.series_instance_uid == uid)
    best = Reason(ReasonCode.BEST_FOR_ROLES, {"series": uid, "roles": names})
    return Ambiguous(roles=names, series_instance_uids=(uid,), reasons=(best,))


def _two_patients(taken: Mapping[str, Candidate]) -> Ambiguous:
    uids = tuple(sorted(candidate.series_instance_uid for candidate in taken.values()))
    differ = Reason(ReasonCode.PATIENTS_DIFFER, {"series": uids})
    return Ambiguous(roles=tuple(taken), series_instance_uids=uids, reasons=(differ,))
