"""Each reason in words: one line of a table, a template over its facts or a function of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from node.domain.reasons import Facts, Reason
from node.words import gate, journey

Telling: TypeAlias = str | Callable[..., str]

_TELLINGS: Mapping[str, Telling] = {**gate.TELLINGS, **journey.TELLINGS}

# facts that any reason may have: whom it is about, and which attempt it ended
_ABOUT = ("role", "instance", "attempt", "attempts", "is_tried_again")


def tell(reason: Reason) -> str:
    """One reason in words; empty where its code says all to programs and nothing to people."""
    facts = reason.facts
    if "told" in facts:
        said = str(facts["told"])
    else:
        own = {name: value for name, value in facts.items() if name not in _ABOUT}
        telling = _TELLINGS[reason.code]
        said = telling(**own) if callable(telling) else telling.format(**own)
    return _about(facts, said) if said else ""


def tell_all(reasons: Iterable[Reason]) -> str:
    """Several reasons in one line, what is said twice once."""
    return "; ".join(dict.fromkeys(filter(None, map(tell, reasons))))


def _about(facts: Facts, said: str) -> str:
    if "instance" in facts:
        said = f"instance {facts['instance']}: {said}"
    if "role" in facts:
        said = f"role {facts['role']}: {said}"
    return f"{said} ({_attempt(facts)})" if "attempt" in facts else said


def _attempt(facts: Mapping[str, Any]) -> str:
    again = ", tried again" if facts.get("is_tried_again") else ""
    return f"attempt {facts['attempt']} of {facts['attempts']}{again}"
