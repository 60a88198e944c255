"""How long to wait before trying again. Pure: chance comes in as an argument."""

from __future__ import annotations

MAX_ATTEMPTS = 3
MAX_REFUSALS = 5
# So many workers in a row died or went silent with one job: far more than a node crashes in that time
MOST_LOST = 10

JOB_FIRST_S, JOB_FACTOR = 10.0, 6.0
LOST_AT_ONCE, LOST_S = 3, 60.0

DELIVERY_FIRST_S, DELIVERY_CAP_S = 5.0, 900.0
# What a peer asks for by Retry-After is honoured up to this
ASKED_CAP_S = 3600.0

# So many ends in a row, none of them the object's fault, and the destination is left alone
BREAKER_OPENS_AT = 3
BREAKER_FIRST_S, BREAKER_CAP_S = 10.0, 300.0


def job_delay_s(attempts: int) -> float:
    """Before the next attempt of a job that failed ``attempts`` times: 10 s, then 60 s."""
    return JOB_FIRST_S * JOB_FACTOR ** max(0, attempts - 1)


def lost_delay_s(lost: int) -> float:
    """Before a job is tried again that lost so many workers in a row: at once, after three 60 s."""
    return LOST_S if lost > LOST_AT_ONCE else 0.0


def delivery_delay_s(attempts: int, jitter: float, asked_s: float | None = None) -> float:
    """Before the next attempt of a delivery: doubling from 5 s up to 15 minutes, for days.

    Args:
        jitter: In [0, 1); spreads what failed together over the upper half of the delay.
        asked_s: Retry-After of the peer.
    """
    delay = _doubled(DELIVERY_FIRST_S, attempts, DELIVERY_CAP_S) * (0.5 + 0.5 * jitter)
    return max(delay, min(asked_s or 0.0, ASKED_CAP_S))


def breaker_delay_s(failures: int, jitter: float) -> float:
    """How long a destination is left alone after ``failures`` ends in a row; 0 keeps it closed."""
    if failures < BREAKER_OPENS_AT:
        return 0.0
    beyond = failures - BREAKER_OPENS_AT + 1
    return _doubled(BREAKER_FIRST_S, beyond, BREAKER_CAP_S) * (0.5 + 0.5 * jitter)


def _doubled(first_s: float, times: int, cap_s: float) -> float:
    return float(min(cap_s, first_s * 2.0 ** min(max(0, times - 1), 30)))
