"""Sets: one series per role of a study rule, or why not yet.

Never the first one that fits: where two fit equally well, a person decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from node.domain.header import Header
from node.domain.reasons import Reason, ReasonCode
from node.route.conditions import Condition, Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What one role says of one series.

    Args:
        rank: Of those that fit the highest is the best.
        unknown: Attributes for want of which it is unknown whether it fits.
    """

    truth: Truth
    rank: tuple[int, ...] = ()
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A complete series of the study in question, judged once by each role; its header is not kept.

    Args:
        fits: What each role says of it.
    """

    series_instance_uid: str
    patient_id: str
    fits: Mapping[str, Fit]

    @property
    def fits_any(self) -> bool:
        return any(fit.truth is Truth.TRUE for fit in self.fits.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one input of the model must be.

    Args:
        prefer: Where several series fit, the ones for which the first of these is true go first,
            then the second, and so on; what is still equal is told apart by the number of slices.
    """

    condition: Condition
    prefer: tuple[Condition, ...] = ()

    def judge(self, header: Header, slices: int) -> Fit:
        """What it says of a series."""
        verdict = self.condition.judge(header)
        if verdict.truth is Truth.TRUE:
            wishes = (wish.judge(header).truth is Truth.TRUE for wish in self.prefer)
            return Fit(truth=verdict.truth, rank=(*(int(granted) for granted in wishes), slices))
        if verdict.truth is Truth.UNKNOWN:
            leaves = (leaf.name for leaf in verdict.leaves() if leaf.truth is Truth.UNKNOWN)
            return Fit(truth=verdict.truth, unknown=frozenset(leaves))
        return Fit(truth=verdict.truth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Every role has its series."""

    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Roles without a series; a later one may fill them."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous:
    """More than one choice is as good: parked for a person."""

    reasons: tuple[Reason, ...]


SetChoice: TypeAlias = Chosen | Waiting | Ambiguous
_Fits = dict[str, list[Candidate]]


def choose(roles: Iterable[str], candidates: Sequence[Candidate]) -> SetChoice:
    """Give each role its series; the order of the candidates does not matter.

    A role that only one series fits takes it; then each role takes the best that is left. A series
    fills one role only.
    """
    fits: _Fits = {
        name: [each for each in candidates if each.fits[name].truth is Truth.TRUE] for name in roles
    }
    taken: dict[str, Candidate] = {}
    while fits:
        if missing := tuple(name for name, fitting in fits.items() if not fitting):
            return _waiting(missing, candidates, taken)
        claims = {name: fitting[0] for name, fitting in fits.items() if len(fitting) == 1}
        if rivals := _rivals(claims):
            return Waiting(reasons=(_rivalry(ReasonCode.ONE_SERIES_FOR_ROLES, rivals),))
        if not claims:
            best = {name: _best(name, fitting) for name, fitting in fits.items()}
            claims = {name: winners[0] for name, winners in best.items() if len(winners) == 1}
            rivals = _rivals(claims)
            if claims.keys() == rivals.keys():
                return _ambiguous(best, rivals)
            claims = {name: winner for name, winner in claims.items() if name not in rivals}
        taken |= claims
        gone = _uids(claims.values())
        fits = {
            name: [each for each in fitting if each.series_instance_uid not in gone]
            for name, fitting in fits.items()
            if name not in claims
        }
    if len({candidate.patient_id for candidate in taken.values()}) > 1:
        differ = Reason(ReasonCode.PATIENTS_DIFFER, {"series": _uids(taken.values())})
        return Ambiguous(reasons=(differ,))
    return Chosen(roles={name: taken[name].series_instance_uid for name in roles})


def _best(role: str, fitting: Sequence[Candidate]) -> list[Candidate]:
    top = max(candidate.fits[role].rank for candidate in fitting)
    return [candidate for candidate in fitting if candidate.fits[role].rank == top]


def _rivals(claims: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The claims on a series that another role claims as well."""
    count = Counter(candidate.series_instance_uid for candidate in claims.values())
    return {name: c for name, c in claims.items() if count[c.series_instance_uid] > 1}


def _waiting(
    missing: tuple[str, ...],
    candidates: Sequence[Candidate],
    taken: Mapping[str, Candidate],
) -> Waiting:
    """Name the empty roles, and what is not known about the series that might have filled them."""
    used = _uids(taken.values())
    left = [each for each in candidates if each.series_instance_uid not in used]
    empty = []
    for name in missing:
        unknown = frozenset[str]().union(*(each.fits[name].unknown for each in left))
        empty.append((name, sorted(unknown)))
    return Waiting(reasons=(Reason(ReasonCode.ROLE_EMPTY, {"empty": empty}),))


def _ambiguous(best: _Fits, rivals: Mapping[str, Candidate]) -> Ambiguous:
    for name, winners in best.items():
        if len(winners) > 1:
            facts = {"fitted_role": name, "series": _uids(winners)}
            return Ambiguous(reasons=(Reason(ReasonCode.SEVERAL_SERIES_FIT, facts),))
    return Ambiguous(reasons=(_rivalry(ReasonCode.BEST_FOR_ROLES, rivals),))


def _rivalry(code: ReasonCode, rivals: Mapping[str, Candidate]) -> Reason:
    """A series that several roles claim, and which."""
    uid = min(_uids(rivals.values()))
    names = [name for name, each in rivals.items() if each.series_instance_uid == uid]
    return Reason(code, {"series": uid, "roles": names})


def _uids(candidates: Iterable[Candidate]) -> list[str]:
    return sorted(candidate.series_instance_uid for candidate in candidates)
