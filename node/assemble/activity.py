"""Activity: what the index knows of how a series is arriving.

Values only: the pipeline fills them from the rows of ``instance``, ``association`` and ``series``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from node.domain.association import Ending
from node.domain.header import Header, Missing
from node.domain.instance import Origin
from node.domain.loss import Loss
from node.domain.series import Forced


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """One association, STOW request or folder scan of a peer that sends the series.

    Args:
        peer: ``peer_key`` of its origin.
        carried: New instances of this series that it brought; 0 for an association of the same peer
            that carried other things.
        ended: How it ended by its row; None while the row is open.
    """

    id: str
    peer: str
    opened_at: float
    heartbeat_at: float
    closed_at: float | None = None
    ended: Ending | None = None
    carried: int = 0

    def __post_init__(self) -> None:
        if (self.closed_at is None) != (self.ended is None):
            raise ValueError("an association ends at a time and in a way, or not at all")

    def end(self, now: float, stale_s: float) -> tuple[float, Ending] | None:
        """When and how it ended; an open row without heartbeat is an abort nobody wrote down."""
        if self.closed_at is not None and self.ended is not None:
            return self.closed_at, self.ended
        if now >= self.heartbeat_at + stale_s:
            return self.heartbeat_at, Ending.ABORTED
        return None


class CountSource(StrEnum):
    """Who said how many instances there are."""

    PEER = "peer"  # Number of Series Related Instances, asked from the sender
    HEADER = "header"  # Images in Acquisition, where it can be trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedCount:
    """A known number of instances of the series."""

    instances: int
    source: CountSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesActivity:
    """How one series is arriving, by the database's clock.

    Args:
        instances: Input instances stored so far, amended copies not counted twice.
        is_regular: ``is_regular(frames, minimum slices of the model)``.
        associations: All that carried the series, and those of the same peers that are open or were
            opened after the first of these.
        splits_series: The peer was once seen to send one series over several associations.
        losses: Images that were lost and have not come since.
        accepted_losses: As many were missing when a person, or the policy, went on without them.
        listening_since: Since when somebody listens on the road that it came by.
    """

    series_instance_uid: str
    instances: int
    last_received_at: float
    is_regular: bool
    associations: Sequence[Association] = field(default_factory=tuple)
    expected: ExpectedCount | None = None
    splits_series: bool = False
    forced: Forced | None = None
    losses: Sequence[Loss] = ()
    accepted_losses: int = 0
    listening_since: float = float("-inf")

    @property
    def misses_images(self) -> bool:
        """Whether more images are lost than anybody agreed to do without."""
        return len(self.losses) > self.accepted_losses

    @property
    def missing(self) -> int:
        """How many images are known to be missing: lost, or short of a known count."""
        short = self.expected.instances - self.instances if self.expected is not None else 0
        return max(len(self.losses), short)

    def carriers(self) -> list[Association]:
        """Associations that brought instances of the series, in the order they were opened."""
        carriers = [association for association in self.associations if association.carried]
        return sorted(carriers, key=lambda carrier: (carrier.opened_at, carrier.id))


def peer_key(origin: Origin) -> str:
    """Whose habit it is: the configured peer, else title, user and address as they came."""
    name = origin.peer or f"{origin.calling_ae_title}{origin.http_user}@{origin.address}"
    return f"{origin.transport}:{name}"[:80]


def trusted_images_in_acquisition(
    header: Header, instance_numbers: Sequence[int | None], *, is_single_frame: bool
) -> ExpectedCount | None:
    """Images in Acquisition (0020,1002) as a count of the series, where it can be trusted.

    The attribute counts an acquisition, not a series, and vendors fill it with all sorts of
    numbers. It is believed only where everything else in the headers agrees with it:

    - every instance is single-frame and carries the same positive value;
    - all instances belong to one acquisition: one Acquisition Number, present and equal;
    - no more instances came than it says;
    - Instance Numbers are present, distinct and within 1 to the value, as in a series that is the
      acquisition, numbered through.

    Otherwise it is ignored, as evidence for and against. Believed and not reached, it holds the
    series (a person can free it); believed and reached, it is evidence once no image has come for
    ``release_settle_s``, so that a number too small is found out by the next image.

    Args:
        instance_numbers: Instance Number of each stored instance, None where it cannot be read.
    Source: PS3.3 C.7.6.1 (general image)
    """
    value, acquisition = header.get("ImagesInAcquisition"), header.get("AcquisitionNumber")
    if isinstance(value, Missing) or len(value) != 1 or isinstance(acquisition, Missing):
        return None
    count = value[0]
    numbers = {number for number in instance_numbers if number is not None}
    agrees = (
        is_single_frame
        and isinstance(count, int)
        and not isinstance(count, bool)
        and len(acquisition) == 1
        and 0 < len(instance_numbers) <= count
        and len(numbers) == len(instance_numbers)
        and min(numbers) >= 1
        and max(numbers) <= count
    )
    return ExpectedCount(instances=int(count), source=CountSource.HEADER) if agrees else None
