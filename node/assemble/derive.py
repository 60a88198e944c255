"""Derived attributes of what was assembled: frames, the gate's verdict and the merged header together."""

from __future__ import annotations

from collections.abc import Sequence

from node.assemble.values import quantity_of
from node.domain import derived
from node.domain.frames import Frame
from node.domain.gate_verdict import GateVerdict
from node.domain.header import Header, Value
from node.domain.instance import Origin


def derive(
    header: Header, frames: Sequence[Frame], verdict: GateVerdict, origin: Origin | None
) -> dict[str, Value]:
    """The derived attributes of a series; the arguments are those of ``SeriesFacts``."""
    facts = derived.SeriesFacts(
        header=header,
        frames=frames,
        verdict=verdict,
        quantity=quantity_of(frames) if frames else None,
        origin=origin,
    )
    return derived.derive(facts)
