"""The one strict ingest of all transports: bytes in, a durable file or a reason out."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from node.domain.errors import InstanceRejected, Status
from node.domain.instance import InstanceState, Origin
from node.domain.limits import IngestLimits
from node.domain.received import IMAGE_SOP_CLASSES, Loss, Received
from node.domain.uids import is_uid
from node.observe import counts
from node.receive.envelope import Part10Splitter, guess_transfer_syntax, inflated
from node.receive.header_check import UID_TAGS, check_header, read_uids
from node.receive.store import InstanceStore
from node.receive.syntaxes import (
    DEFLATED,
    NATIVE_SYNTAXES,
    STORAGE_SOP_CLASSES,
)
from node.receive.walk import (
    EXPLICIT_LITTLE,
    Buffer,
    Element,
    Encoding,
    Structure,
    encoding_of,
    walk,
)

# of one series, before a sender of millions costs memory; beyond it only a person settles a loss
_MAX_IMAGES = 65_536
_BEYOND_FULL = "beyond what a series may have"
_META_GROUP = b"\x02\0"  # (0002,eeee), little endian


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the C-STORE command and its presentation context said."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The instance is durable; the sender may be told so."""

    state: InstanceState
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


@dataclass(slots=True)
class Carried:
    """What one association, STOW request or folder scan brought, and whether it lost nothing.

    It is handed over when the association ends. A loss that names no series counts against the
    series that came beside it; an image without a name that was lost before counts as come after
    all when its whole series comes again without any loss.

    Attributes:
        series: Series Instance UID -> SOP Instance UIDs that are kept now, whether they are new or
            were there before.
        losses: Images that were not kept.
    """

    series: dict[str, set[str]] = field(default_factory=dict)
    losses: int = 0

    def note(self, receipt: Receipt) -> None:
        """An instance is kept."""
        images = self.series.setdefault(receipt.series_instance_uid, set())
        if len(images) < _MAX_IMAGES:
            images.add(receipt.sop_instance_uid)


class Ingest:
    """Opens an arrival per instance; one per process, safe to share between threads.

    Args:
        transfer_syntaxes: What may be kept besides native pixels, such as ``syntaxes.Decodable()``.
    """

    def __init__(
        self,
        store: InstanceStore,
        *,
        transfer_syntaxes: Container[str],
        limits: IngestLimits | None = None,
    ) -> None:
        self.store = store
        self.transfer_syntaxes = transfer_syntaxes
        self.limits = limits or IngestLimits()

    def begin(self, origin: Origin, announced: Announced) -> Arrival:
        """An arrival of bare data-set bytes, as C-STORE carries them.

        Raises:
            InstanceRejected: 0xA700, there is no room now.
        """
        return Arrival(self, origin, announced=announced)

    def begin_file(
        self,
        origin: Origin,
        *,
        study_instance_uid: str | None = None,
        source: str = "",
        is_meant: bool = True,
        is_kept_aside: bool = True,
    ) -> Arrival:
        """An arrival of a Part 10 file, with or without preamble and group 0002.

        Args:
            study_instance_uid: The study named in a STOW path; another one in the file is refused.
            source: What its sender calls it: a path, the number of a part.
            is_meant: Whether its sender surely meant a DICOM file; else it must look like one for
                its refusal to count as the loss of an image.
            is_kept_aside: Whether it goes to quarantine where it is refused and worth it.
        Raises:
            InstanceRejected: 0xA700, there is no room now.
        """
        return Arrival(
            self,
            origin,
            study_instance_uid=study_instance_uid,
            source=source,
            is_meant=is_meant,
            is_kept_aside=is_kept_aside,
        )

    def record_loss(
        self, rejection: InstanceRejected, origin: Origin, *, series: str = "", source: str = ""
    ) -> None:
        """Write down that an image is not kept, unless it is known to be none.

        Also for what is refused before there is an arrival.

        Args:
            series: The Series Instance UID that its header names, as far as that was read.
        """
        named = rejection.sop_instance_uid
        if rejection.dimse_status == Status.TOO_MANY_IN_SERIES:
            named, source = "", _BEYOND_FULL  # one row, or what is refused would grow without end
        image = named if is_uid(named) else source or ascii(named)
        if rejection.sop_class_uid in STORAGE_SOP_CLASSES - IMAGE_SOP_CLASSES:
            return
        self.store.record_loss(
            Loss(
                series_instance_uid=series if is_uid(series) else "",
                image=image,
                sop_instance_uid=named if is_uid(named) else "",
                association_id=origin.association_id,
                dimse_status=rejection.dimse_status,
                reason=rejection.reason,
            )
        )


class Arrival:
    """One instance on its way in: ``write`` until the last byte, then ``finish`` or ``abandon``."""

    def __init__(
        self,
        ingest: Ingest,
        origin: Origin,
        *,
        announced: Announced | None = None,
        study_instance_uid: str | None = None,
        source: str = "",
        is_meant: bool = True,
        is_kept_aside: bool = True,
    ) -> None:
        self._ingest = ingest
        self._origin = origin
        self._announced = announced
        self._study_instance_uid = study_instance_uid
        self._splitter = Part10Splitter() if announced is None else None
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._known = Received()
        self._rejection: InstanceRejected | None = None
        self._source = source
        self._is_meant = is_meant
        self._is_kept_aside = is_kept_aside
        self._is_over = False
        try:
            self._part = ingest.store.new_part()
        except InstanceRejected as rejection:
            if announced is not None:
                rejection.sop_class_uid = announced.sop_class_uid
                rejection.sop_instance_uid = announced.sop_instance_uid
            ingest.record_loss(rejection, origin, source=source)
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Never raises: a failure is told by ``finish``."""
        if self._rejection is not None:
            return
        if self._splitter is None and not self._size_bytes and bytes(data[:2]) == _META_GROUP:
            # the peer sends File Meta Information with its data set; ours stands before it already
            self._splitter = Part10Splitter(is_bare=True)
        try:
            self._take(data if self._splitter is None else self._splitter.feed(data))
        except InstanceRejected as rejection:
            self._rejection = rejection
        except MemoryError:
            self._rejection = _no_memory()
        if self._rejection is not None:
            self._put_aside(self._rejection)
            self._part.discard()  # at once; a peer may go on sending for long

    def finish(self) -> Receipt:
        """Check the instance and keep it; it is durable when this returns.

        Raises:
            InstanceRejected: With the status for the sender; nothing was kept but, where the bytes
                are worth it, a copy in quarantine.
        """
        self._is_over = True
        if self._rejection is not None:
            self._part.discard()
            raise self._rejection
        try:
            state = self._keep()
        except InstanceRejected as rejection:
            self._put_aside(rejection)
            raise
        finally:
            self._part.discard()
        return Receipt(state=state, **{name: getattr(self._known, name) for name in UID_TAGS})

    def abandon(self) -> None:
        """The line was lost: remove what came so far. Harmless after ``finish``."""
        if not self._is_over and self._rejection is None and (self._announced or self._size_bytes):
            self._is_over = True
            cut_off = InstanceRejected(
                "its transfer was cut off",
                dimse_status=Status.CANNOT_UNDERSTAND,
                quarantine=False,
            )
            self._put_aside(cut_off)
        self._part.discard()

    def _keep(self) -> InstanceState:
        try:
            if self._splitter is not None:
                self._take(self._splitter.end())
            self._known = self._check()
            return self._part.keep(self._known, self._origin)
        except MemoryError:
            pass  # what took it is let go of before anything else is done
        raise _no_memory()

    def _take(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self._size_bytes += len(data)
        if self._size_bytes > self._ingest.limits.max_object_bytes:
            raise InstanceRejected(
                f"longer than {self._ingest.limits.max_object_bytes} bytes",
                dimse_status=Status.OUT_OF_RESOURCES,
                quarantine=False,
            )
        self._sha256.update(data)
        self._part.write(data)

    def _put_aside(self, rejection: InstanceRejected) -> None:
        """Keep what is worth it for a person, and remember that an image is missing."""
        named = self._announced or self._known
        rejection.sop_instance_uid = rejection.sop_instance_uid or named.sop_instance_uid
        rejection.sop_class_uid = rejection.sop_class_uid or named.sop_class_uid
        if rejection.quarantine and not self._is_kept_aside:
            counts.add(counts.NOT_SET_ASIDE, "enough of this request")
        elif rejection.quarantine:
            self._part.quarantine(self._known, self._origin, rejection, source=self._source)
        has_prefix = self._splitter is not None and self._splitter.has_prefix
        if self._is_meant or has_prefix or is_uid(self._known.sop_instance_uid):
            series = self._known.series_instance_uid
            self._ingest.record_loss(rejection, self._origin, series=series, source=self._source)

    def _check(self) -> Received:
        received_sha256 = self._sha256.hexdigest()
        self._known = Received(received_sha256=received_sha256, size_bytes=self._size_bytes)
        with self._part.content() as content:
            syntax = self._transfer_syntax(content)
            self._known = replace(self._known, transfer_syntax_uid=syntax)
            if syntax not in NATIVE_SYNTAXES and syntax not in self._ingest.transfer_syntaxes:
                with suppress(InstanceRejected):  # it may read as explicit VR, and name a series
                    self._guess(self._walk(content, EXPLICIT_LITTLE))
                raise InstanceRejected(
                    "the transfer syntax is none that this node decodes",
                    dimse_status=Status.TRANSFER_SYNTAX_NOT_SUPPORTED,
                )
            if syntax != DEFLATED:
                return self._check_data_set(content, syntax)
            limits = self._ingest.limits
            most, ratio = limits.max_inflated_bytes, limits.max_inflate_ratio
            with self._part.scratch() as scratch, inflated(content, scratch, most, ratio) as data:
                return self._check_data_set(data, syntax)

    def _check_data_set(self, data: Buffer, syntax: str) -> Received:
        limits = self._ingest.limits
        top = self._walk(data, encoding_of(syntax))
        self._known = replace(self._known, **read_uids(top))
        self._check_announced()
        received = check_header(top, self._known, max_pixel_bytes=limits.max_pixel_bytes)
        for offset, written in top.rewrites:
            self._part.rewrite(offset, written)
        if self._splitter is not None and self._splitter.notes:
            received = replace(received, notes=(*received.notes, *self._splitter.notes))
        if received.sop_class_uid not in STORAGE_SOP_CLASSES:
            raise InstanceRejected(
                "the SOP class is none that this node stores",
                dimse_status=Status.SOP_CLASS_NOT_SUPPORTED,
                offending_tags=[UID_TAGS["sop_class_uid"]],
            )
        return received

    def _walk(self, data: Buffer, encoding: Encoding) -> Structure:
        """Walk a data set; where that fails what stood before the fault may name its series."""
        found: dict[int, Element] = {}
        try:
            return walk(data, encoding, found=found)
        except InstanceRejected:
            self._guess(Structure(data=data, encoding=encoding, elements=found))
            raise
        except MemoryError:
            found.clear()  # at once: to leave the frames above takes some
        raise _no_memory()

    def _guess(self, top: Structure) -> None:
        """Remember the UIDs of a data set that cannot be read to its end, where they are any."""
        uids = read_uids(top)
        legal: dict[str, Any] = {name: uid if is_uid(uid) else "" for name, uid in uids.items()}
        self._known = replace(self._known, **legal)

    def _check_announced(self) -> None:
        """The data set is the one that was announced. Source: PS3.4 Table B.2-1."""
        for name in ("sop_class_uid", "sop_instance_uid") if self._announced else ():
            if getattr(self._known, name) not in ("", getattr(self._announced, name)):
                raise InstanceRejected(
                    "the data set is not the instance that the command names",
                    dimse_status=Status.DOES_NOT_MATCH_SOP_CLASS,
                    offending_tags=[UID_TAGS[name]],
                )
        if self._study_instance_uid not in (None, self._known.study_instance_uid):
            raise InstanceRejected(
                "the instance belongs to another study than the request names",
                dimse_status=Status.DOES_NOT_MATCH_STUDY,
                offending_tags=[UID_TAGS["study_instance_uid"]],
            )

    def _transfer_syntax(self, content: Buffer) -> str:
        if self._announced is not None:
            return self._announced.transfer_syntax_uid
        named = self._splitter.transfer_syntax_uid if self._splitter is not None else ""
        return named or guess_transfer_syntax(content)


def _no_memory() -> InstanceRejected:
    return InstanceRejected(
        "no memory is left for it", dimse_status=Status.OUT_OF_RESOURCES, quarantine=False
    )
