"""Words for the way of a series: arrival, rules, models, jobs and deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.domain.reasons import ReasonCode as Code
from node.words.health import show_count

_LONGEST_CLAUSE = 80
_SOURCES = {"peer": "the sender's count", "header": "Images in Acquisition"}


# --- arrival -------------------------------------------------------------------------------------


def _count_short(images: int, expected: int, source: str) -> str:
    return f"{images} of {expected} ({_SOURCES[source]}) images arrived"


def _not_reached(none_for_s: float, **short: Any) -> str:
    return f"{_count_short(**short)}, none in the last {none_for_s:.0f} s"


def _gave_up(is_discarded: bool, **short: Any) -> str:
    then = "discarded" if is_discarded else "going on without the others"
    return f"{_not_reached(**short)}: {then}"


def _images_refused(count: int, of: int, whys: Sequence[tuple[int, str]], others: int = 0) -> str:
    told = [f"{number} x {why}" for number, why in whys]
    told += [f"{others} for other reasons"] if others else []
    were = "was" if count == 1 else "were"
    return f"{show_count(count)} of {of} images {were} refused ({'; '.join(told)})"


def _images_missing(parts: Sequence[tuple[str, int, int]] = ()) -> str:
    """Of a job; the row of a series has columns for it."""
    if not parts:
        return ""
    told = [
        f"{role + ' ' if role else ''}{count} of {count + missing} images"
        for role, count, missing in parts
    ]
    return f"made of {', '.join(told)}"


# --- rules and models ----------------------------------------------------------------------------


def _misfit(does_not_fit: Sequence[str], unknown: Sequence[tuple[str, str]]) -> str:
    parts = [f"does not fit: {', '.join(does_not_fit)}"] if does_not_fit else []
    if unknown:
        parts.append("unknown: " + ", ".join(f"{name} ({why})" for name, why in unknown))
    return "; ".join(parts)


def _no_rule_fired(rules: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> str:
    told = [f"rule {rule}: {_silent(roles)}" for rule, roles in rules]
    return f"no rule fired: {'; '.join(told)}"


def no_model_takes_it(rules: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> str:
    """The same where rules were made for models, and nobody has written any."""
    told = [f"{rule}: {_silent(roles)}" for rule, roles in rules]
    return f"no model takes it: {'; '.join(told)}"


def _silent(roles: Sequence[Sequence[Any]]) -> str:
    told = [
        f"role {role}: {_misfit(fits, unknown)}" if role else _misfit(fits, unknown)
        for role, fits, unknown in roles
    ]
    return "; ".join(told)


def _role_empty(empty: Sequence[tuple[str, Sequence[str]]]) -> str:
    told = [
        f"{role} ({', '.join(unknown)} unknown in some series)" if unknown else role
        for role, unknown in empty
    ]
    return f"no series yet for {'role' if len(told) == 1 else 'roles'} {', '.join(told)}"


def _model_refuses(model: str, because: Sequence[Sequence[Any]]) -> str:
    told = dict.fromkeys(_clause(*clause) for clause in because)
    return f"{model} must not be given it: {'; '.join(told)}"


def _clause(name: str, asked: str, holds: bool, found: Sequence[str]) -> str:
    """A clause that is true; what was found only where the node made the value itself."""
    listed = asked if len(asked) <= _LONGEST_CLAUSE else f"{asked[:_LONGEST_CLAUSE]} ..."
    if asked.startswith("{"):
        return f"{name} {'fits' if holds else 'does not fit'} {listed}"
    values = listed.strip("[]")
    if holds:
        return f"{name} is {'one of ' if asked.startswith('[') else ''}{values}"
    is_found = f"{', '.join(found)}, " if found else ""
    return f"{name} is {is_found}not {values.replace(', ', ' or ')}"


TELLINGS: Mapping[Code, Any] = {
    Code.COUNT_SHORT: _count_short,
    Code.COUNT_JUST_REACHED: "the count was reached just now",
    Code.COUNT_REACHED: lambda expected, source: (
        f"all {expected} ({_SOURCES[source]}) images arrived"
    ),
    Code.COUNT_NOT_REACHED: _not_reached,
    Code.GAVE_UP_WAITING: _gave_up,
    Code.JUST_RELEASED: "the association was released just now",
    Code.RELEASED: "association released {ago_s:.1f} s ago, {images} images in a regular stack",
    Code.NOT_REGULAR_YET: "{images} images are not yet a regular stack",
    Code.ABORTED: "the association was aborted: waiting for the sender to come back",
    Code.NO_HEARTBEAT: "the association has no heartbeat: its process may be gone",
    Code.NOT_QUIET_YET: "waiting for {needed_s:.0f} s without an image",
    Code.QUIET: "no image for {quiet_s:.1f} s, {images} images in a regular stack",
    Code.QUIET_LONG: "no image for {quiet_s:.0f} s, {images} images",
    Code.PERSON_WENT_ON: lambda images, of: (
        f"a person said to go on with {f'{images} of {of}' if of > images else images} images"
    ),
    Code.PERSON_DISCARDED: "discarded by a person",
    Code.AS_SETTLED: "complete as it was settled",
    Code.NO_INPUT: (
        "{model} takes images; no grayscale images of a patient: nothing for a model",
        "no grayscale images of a patient: nothing for a model",
    ),
    Code.IMAGES_REFUSED: _images_refused,
    Code.LATE_IMAGES: lambda images, revision: (
        f"{images} {'image' if images == 1 else 'images'} came after the result of revision"
        f" {revision} was delivered"
    ),
    Code.FILES_DELETED: (
        "images of {series} were deleted by retention",
        "images came after earlier ones of revision {revision} were deleted by retention",
        "its images were deleted by retention: send the series again",
    ),
    Code.NOT_JUDGED: "{error} when it was judged, tried again every {again_after_s:.0f} s",
    Code.PROCESS_DIED: "a process of the node died {times} times while it worked on it: set aside",
    Code.IMAGES_MISSING: _images_missing,
    Code.NO_RULE_FIRED: _no_rule_fired,
    Code.ROLE_EMPTY: _role_empty,
    Code.ONE_SERIES_FOR_ROLES: (
        "series {series} is the only one for roles {roles: and }, and a series fills one role only"
    ),
    Code.SEVERAL_SERIES_FIT: lambda fitted_role, series: (
        f"{'two' if len(series) == 2 else len(series)} series fit role {fitted_role}:"
        f" {', '.join(series)}"
    ),
    Code.BEST_FOR_ROLES: (
        "series {series} fits roles {roles: and } best, and a series fills one role only"
    ),
    Code.PATIENTS_DIFFER: "the series of this set differ in Patient ID: {series:, }",
    Code.NOT_ACCEPTED: lambda model, **misfit: f"{model} does not take it: {_misfit(**misfit)}",
    Code.MODEL_REFUSES: _model_refuses,
    Code.TOO_LITTLE_BODY: (
        "{extent_mm:.4g} mm of the body along the stack, {model} needs {needed_mm:.4g} mm"
    ),
    Code.ATTEMPT_FAILED: "it failed",
    Code.WORKER_LOST: (
        "the worker was lost, {times} in a row: no attempt counts",
        "the worker was lost in attempt {lost_in} of {of}",
    ),
    Code.KILLS_WORKERS: "killed its worker {times} times, or outlived its lease",
    Code.RESOURCE_SHORT: "a resource is short",
    Code.CANCELLED: (
        "{is_its_job:its job was |}cancelled by an operator",
        "cancelled by an operator",
    ),
    Code.MODEL_CHANGED: "the model changed since the job was made: judged again",
    Code.SUPERSEDED: (
        "job {job} took its place",
        "revision {revision}{is_of_series: of the series|} took its place",
        "revision {revision} took its place",
        "a newer revision of the series took its place",
    ),
    Code.TAKEN_ALL_THE_SAME: "taken by an operator all the same",
    Code.NOTHING_FOUND: "nothing found",
    Code.NOTED: "",
    Code.RESULT_IMPLAUSIBLE: "the result is implausible: jobs accept {job} delivers it",
    Code.NO_DESTINATION: "no destination is known: deliveries send RESULT --to NAME sends it",
    Code.DELIVERY_TRIED: "",
    Code.DELIVERY_BLOCKED: "blocked",
    Code.TOLD: "",
}
