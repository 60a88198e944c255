"""Jobs: the states of work, and the key that makes two requests the same work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from node.domain.uids import uid_from


class Priority(IntEnum):
    """Lower runs first."""

    URGENT = 0
    NORMAL = 1
    BACKGROUND = 2


class MatchState(StrEnum):
    """State of a (series set, rule); a series without a rule has the empty rule name."""

    RECEIVING = "receiving"
    HELD = "held"
    UNMATCHED = "unmatched"
    NOT_AN_INPUT = "not_an_input"
    PARKED = "parked"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    IMPLAUSIBLE = "implausible"
    SUPERSEDED = "superseded"


class JobState(StrEnum):
    """State of a job row; the result of one that is ``implausible`` is kept and waits for a person."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    PARKED = "parked"
    CANCELLED = "cancelled"
    IMPLAUSIBLE = "implausible"


class Settled(StrEnum):
    """How a job had ended before it was queued again for a form that was asked for later."""

    NOT_YET = ""
    DONE = "done"
    ACCEPTED = "accepted"  # by a person, although it is implausible
    IMPLAUSIBLE = "implausible"


class Progress(IntEnum):
    """How far the work of a series went; the furthest of its jobs and deliveries counts."""

    NO_JOB = 0
    QUEUED = 1
    IN_WORK = 2
    DELIVERED = 3


class DeliveryState(StrEnum):
    """State of an outbox row; ``sent`` and ``confirmed`` are different promises."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    WARNED = "warned"
    BLOCKED = "blocked"
    NO_DESTINATION = "no_destination"
    WITHHELD = "withheld"
    CANCELLED = "cancelled"


def job_key(
    pixel_identities: Iterable[str], model_digest: str, parameters: Mapping[str, object]
) -> str:
    """What the work is: input pixels, model and parameters, whoever asked and why.

    Two rules with the same key share one job; a corrected patient name keeps the key.

    Args:
        pixel_identities: ``Instance.pixel_identity`` of each input, in any order.
    """
    return _digest(sorted(pixel_identities), model_digest, dict(parameters))


def result_key(
    content: Mapping[str, str], model_digest: str, parameters: Mapping[str, object], incomplete: str
) -> str:
    """What a result is: content of the inputs, model and parameters, whatever transport brought them.

    The key of a job is over bytes as they were received, and known before anything is decoded; this
    one is over what they show.

    Args:
        content: Role -> ``content_digest``.
        incomplete: Of how many of how many images, where some are missing.
    """
    return _digest(dict(content), model_digest, dict(parameters), incomplete)


def _digest(*parts: object) -> str:
    body = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultIdentity:
    """The UIDs of one result object: the same inputs, model and parameters make the same object.

    Args:
        key: ``result_key``.
        output: Output kind of the model, such as ``labels``.
        form: What its UIDs call the form of it; see ``Form.named_in_uids``.
    """

    key: str
    output: str
    form: str
    revision: int

    def uid(self, what: str) -> str:
        """A UID for ``sop``, ``series``, ``dimension``, or ``tracking.N``."""
        return uid_from(self.key, self.output, self.form, str(self.revision), what)
