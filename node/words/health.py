"""What keeps a node from being well, and the commands that show it."""

from __future__ import annotations

from node.domain.health import Readiness


def show_degraded(readiness: Readiness) -> dict[str, str]:
    """Reason such as ``held``, ``parked``, ``blocked``, ``disk`` -> one plain sentence.

    Shown to everybody: it holds counts and commands, and no patient.
    """
    sentences = {
        "held": (
            readiness.held,
            f"{readiness.held} series wait for a person: segnode series list --state held",
        ),
        "parked": (
            readiness.parked,
            f"{readiness.parked} series cannot run: segnode jobs list --matches",
        ),
        "implausible": (
            readiness.implausible,
            f"{readiness.implausible} results are implausible and not delivered:"
            " segnode jobs list --state implausible",
        ),
        "blocked": (
            readiness.blocked,
            f"{readiness.blocked} results cannot be delivered:"
            " segnode deliveries list --state blocked",
        ),
        "disk": (readiness.shortage, f"{readiness.shortage}: new instances are refused"),
    }
    return {name: sentence for name, (is_so, sentence) in sentences.items() if is_so}
