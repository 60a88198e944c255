"""Bounds that a site may have a reason to change: what peers may cost, and how long they may take.

``docs/limits.md`` lists them with those that are constants, what is answered at each and where it is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from node.domain.settings import Bounds, Count, Mistake, Settings, Timeout

PduBytes = Annotated[int, Bounds(4096, 1 << 20)]
Bytes = Annotated[int, Bounds(1)]
Rate = Annotated[float, Bounds(0)]
Ratio = Annotated[float, Bounds(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseLimits(Settings):
    """What callers may cost over DIMSE.

    Args:
        negotiation_timeout_s: From a connection to the last byte of its request.
        idle_timeout_s: Without a byte, in a message or between two.
        slowest_bytes_s: What a message must make at least, in the mean of ``slowest_over_s``.
        max_pdu_bytes: Maximum length that is advertised and enforced. PS3.8 D.1
        waiting: Connections that have not asked yet, each, and for those of one address alone.
    """

    negotiation_timeout_s: Timeout = 30.0
    idle_timeout_s: Timeout = 60.0
    slowest_bytes_s: Rate = 1000.0
    slowest_over_s: Timeout = 30.0
    max_pdu_bytes: PduBytes = 131072
    waiting: Count = 1000
    waiting_per_address: Count = 200

    def mistakes(self) -> Iterator[Mistake]:
        if self.waiting_per_address > self.waiting:
            yield "waiting_per_address", f"above waiting ({self.waiting}): lower it"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits(Settings):
    """What one instance, or one series, may cost, however it comes.

    Args:
        max_object_bytes: Of one data set on the wire.
        max_inflated_bytes: Of a deflated data set, inflated; ``max_inflate_ratio`` counts above
            64 MiB only.
        max_pixel_bytes: Of decoded pixels, as the header declares them.
        max_instances_per_series: Of the rows of a series, amended versions and deleted files included;
            each process may go over it by a hundredth.
    """

    max_object_bytes: Bytes = 8 << 30
    max_inflated_bytes: Bytes = 4 << 30
    max_inflate_ratio: Ratio = 100.0
    max_pixel_bytes: Bytes = 16 << 30
    max_instances_per_series: Count = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits(Settings):
    """What clients may cost over HTTP.

    Args:
        header_s: From a connection, or the first byte of a further request, to the end of its header.
        slowest_bytes_s: What a body must make at least, in the mean of ``slowest_over_s``; an answer of
            which nothing is read for so long ends as well.
        max_requests: In hand at once.
        idle_connections: On which nothing is asked, and for those of one address alone.
        max_stow_requests: Of them STOW-RS requests whose bodies are being taken.
        max_stow_bytes: Of one STOW-RS request.
        max_stow_parts: Of one STOW-RS request.
        max_stow_parts_aside: Refused parts of one STOW-RS request that are kept in quarantine.
        stow_idle_s: How long a client may be silent inside a body.
        stow_request_s: How long one STOW-RS request may take as a whole.
    """

    header_s: Timeout = 15.0
    slowest_bytes_s: Rate = 1000.0
    slowest_over_s: Timeout = 30.0
    max_requests: Count = 1000
    idle_connections: Count = 1000
    idle_connections_per_address: Count = 200
    max_stow_requests: Count = 32
    max_stow_bytes: Bytes = 64 << 30
    max_stow_parts: Count = 50_000
    max_stow_parts_aside: Count = 100
    stow_idle_s: Timeout = 30.0
    stow_request_s: Timeout = 3600.0

    def mistakes(self) -> Iterator[Mistake]:
        for key, whole in (
            ("idle_connections_per_address", "idle_connections"),
            ("max_stow_requests", "max_requests"),
        ):
            if getattr(self, key) > (most := getattr(self, whole)):
                yield key, f"above {whole} ({most}): lower it"
