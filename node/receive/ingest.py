"""The one strict ingest of all roads: bytes in, a durable file or a reason out."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState, Origin
from node.domain.received import Loss, Received
from node.domain.statuses import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH_SOP_CLASS,
    DOES_NOT_MATCH_STUDY,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    TRANSFER_SYNTAX_NOT_SUPPORTED,
)
from node.domain.uids import is_uid
from node.receive.header_check import (
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    TopLevel,
    check_header,
    read_uids,
)
from node.receive.inflate import inflated
from node.receive.part10 import Part10Splitter, guess_transfer_syntax
from node.receive.store import InstanceStore, Part
from node.receive.syntaxes import (
    DEFLATED,
    EXPLICIT_BIG_UID,
    IMAGE_SOP_CLASSES,
    IMPLICIT_LITTLE_UID,
    STORAGE_SOP_CLASSES,
)
from node.receive.walk import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Buffer,
    Element,
    Encoding,
    Structure,
    walk,
)

_META_GROUP = b"\x02\0"  # (0002,eeee), little endian
_ENCODINGS = {IMPLICIT_LITTLE_UID: IMPLICIT_LITTLE, EXPLICIT_BIG_UID: EXPLICIT_BIG}


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How element headers are written under a transfer syntax."""
    return _ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """What one instance may cost.

    Args:
        max_object_bytes: Of one data set on the wire.
        max_inflated_bytes: Of a deflated data set, inflated; ``max_inflate_ratio`` counts above
            64 MiB only.
        max_pixel_bytes: Of decoded pixels, as the header declares them.
    """

    max_object_bytes: int = 8 << 30
    max_inflated_bytes: int = 4 << 30
    max_inflate_ratio: float = 100.0
    max_pixel_bytes: int = 16 << 30
    max_elements: int = 4_000_000


class Ingest:
    """Opens an arrival per instance; one per process, safe to share between threads.

    Args:
        transfer_syntaxes: What may be kept, such as ``syntaxes.Decodable()``.
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
        try:
            part = self.store.new_part()
        except InstanceRejected as rejection:
            rejection.sop_instance_uid = announced.sop_instance_uid
            rejection.sop_class_uid = announced.sop_class_uid
            self.record_loss(rejection, origin)
            raise
        return Arrival(self, part, origin, announced=announced)

    def begin_file(
        self,
        origin: Origin,
        *,
        study_instance_uid: str | None = None,
        source: str = "",
        is_meant: bool = True,
    ) -> Arrival:
        """An arrival of a Part 10 file, with or without preamble and group 0002.

        Args:
            study_instance_uid: The study named in a STOW path; another one in the file is refused.
            source: What its sender calls it: a path, the number of a part.
            is_meant: Whether its sender surely meant a DICOM file; else it must look like one for
                its refusal to count as the loss of an image.
        Raises:
            InstanceRejected: 0xA700, there is no room now.
        """
        try:
            part = self.store.new_part()
        except InstanceRejected as rejection:
            self.record_loss(rejection, origin, source=source)
            raise
        return Arrival(
            self,
            part,
            origin,
            study_instance_uid=study_instance_uid,
            source=source,
            is_meant=is_meant,
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
        part: Part,
        origin: Origin,
        *,
        announced: Announced | None = None,
        study_instance_uid: str | None = None,
        source: str = "",
        is_meant: bool = True,
    ) -> None:
        self._ingest = ingest
        self._part = part
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
        self._is_over = False

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
            self._refuse_early(rejection)

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
            if self._splitter is not None:
                self._take(self._splitter.end())
            received = self._known = self._check()
            state = self._part.keep(received, self._origin)
        except InstanceRejected as rejection:
            self._put_aside(rejection)
            raise
        finally:
            self._part.discard()
        return Receipt(
            state=state,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
            study_instance_uid=received.study_instance_uid,
            series_instance_uid=received.series_instance_uid,
        )

    def abandon(self) -> None:
        """The line was lost: remove what came so far. Harmless after ``finish``."""
        if not self._is_over and self._rejection is None and (self._announced or self._size_bytes):
            self._is_over = True
            cut_off = InstanceRejected(
                "its transfer was cut off", dimse_status=CANNOT_UNDERSTAND, quarantine=False
            )
            self._put_aside(cut_off)
        self._part.discard()

    def _take(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self._size_bytes += len(data)
        if self._size_bytes > self._ingest.limits.max_object_bytes:
            raise InstanceRejected(
                f"longer than {self._ingest.limits.max_object_bytes} bytes",
                dimse_status=OUT_OF_RESOURCES,
                quarantine=False,
            )
        self._sha256.update(data)
        self._part.write(data)

    def _refuse_early(self, rejection: InstanceRejected) -> None:
        """Give the room back at once; a peer may go on sending for long."""
        self._rejection = rejection
        self._put_aside(rejection)
        self._part.discard()

    def _put_aside(self, rejection: InstanceRejected) -> None:
        """Keep what is worth it for a person, and remember that an image is missing."""
        self._identify(rejection)
        if rejection.quarantine:
            self._part.quarantine(self._known, self._origin, rejection, source=self._source)
        if self._is_meant or self._looks_like_dicom:
            series = self._known.series_instance_uid
            self._ingest.record_loss(rejection, self._origin, series=series, source=self._source)

    @property
    def _looks_like_dicom(self) -> bool:
        has_prefix = self._splitter is not None and self._splitter.has_prefix
        return has_prefix or is_uid(self._known.sop_instance_uid)

    def _identify(self, rejection: InstanceRejected) -> None:
        """Name the instance in the rejection, as far as the command or the data set told."""
        announced = self._announced
        rejection.sop_instance_uid = rejection.sop_instance_uid or (
            announced.sop_instance_uid if announced else self._known.sop_instance_uid
        )
        rejection.sop_class_uid = rejection.sop_class_uid or (
            announced.sop_class_uid if announced else self._known.sop_class_uid
        )

    def _check(self) -> Received:
        received_sha256 = self._sha256.hexdigest()
        self._known = Received(received_sha256=received_sha256, size_bytes=self._size_bytes)
        with self._part.content() as content:
            syntax = self._transfer_syntax(content)
            self._known = replace(self._known, transfer_syntax_uid=syntax)
            if syntax not in self._ingest.transfer_syntaxes:
                self._peek(content)
                raise InstanceRejected(
                    "the transfer syntax is none that this node decodes",
                    dimse_status=TRANSFER_SYNTAX_NOT_SUPPORTED,
                )
            if syntax != DEFLATED:
                return self._check_data_set(content, syntax)
            limits = self._ingest.limits
            with (
                self._part.scratch() as scratch,
                inflated(
                    content,
                    scratch,
                    max_bytes=limits.max_inflated_bytes,
                    max_ratio=limits.max_inflate_ratio,
                ) as data,
            ):
                return self._check_data_set(data, syntax)

    def _check_data_set(self, data: Buffer, syntax: str) -> Received:
        limits = self._ingest.limits
        encoding = encoding_of(syntax)
        found: dict[int, Element] = {}
        try:
            structure = walk(data, encoding, max_elements=limits.max_elements, found=found)
        except InstanceRejected:
            # what stood before the fault may name the series that misses it
            self._guess(data, encoding, found)
            raise
        top = TopLevel(data, structure)
        uids = self._learn(top)
        self._check_announced(uids)
        received = check_header(
            top,
            syntax,
            size_bytes=self._size_bytes,
            received_sha256=self._known.received_sha256,
            max_pixel_bytes=limits.max_pixel_bytes,
        )
        for offset, written in top.structure.rewrites:
            self._part.rewrite(offset, written)
        if self._splitter is not None and self._splitter.notes:
            received = replace(received, notes=(*received.notes, *self._splitter.notes))
        if received.sop_class_uid not in STORAGE_SOP_CLASSES:
            raise InstanceRejected(
                "the SOP class is none that this node stores",
                dimse_status=SOP_CLASS_NOT_SUPPORTED,
                offending_tags=[SOP_CLASS_UID],
            )
        return received

    def _learn(self, top: TopLevel) -> Mapping[int, str]:
        """Remember the UIDs that a data set names."""
        uids = read_uids(top)
        self._remember(uids)
        return uids

    def _remember(self, uids: Mapping[int, str]) -> None:
        self._known = replace(
            self._known,
            sop_class_uid=uids[SOP_CLASS_UID],
            sop_instance_uid=uids[SOP_INSTANCE_UID],
            study_instance_uid=uids[STUDY_INSTANCE_UID],
            series_instance_uid=uids[SERIES_INSTANCE_UID],
        )

    def _peek(self, content: Buffer) -> None:
        """Learn what a data set of a foreign transfer syntax names, if it reads as explicit VR."""
        found: dict[int, Element] = {}
        with suppress(InstanceRejected):
            walk(content, EXPLICIT_LITTLE, found=found)
        self._guess(content, EXPLICIT_LITTLE, found)

    def _guess(self, data: Buffer, encoding: Encoding, found: dict[int, Element]) -> None:
        """Remember the UIDs of a data set that cannot be read to its end, where they are any."""
        top = TopLevel(data, Structure(encoding=encoding, elements=found, fragments=None))
        self._remember({tag: uid if is_uid(uid) else "" for tag, uid in read_uids(top).items()})

    def _check_announced(self, uids: Mapping[int, str]) -> None:
        """The data set is the one that was announced. Source: PS3.4 Table B.2-1."""
        announced = self._announced
        if announced is not None:
            pairs = (
                (SOP_CLASS_UID, announced.sop_class_uid),
                (SOP_INSTANCE_UID, announced.sop_instance_uid),
            )
            for tag, expected in pairs:
                if uids[tag] and uids[tag] != expected:
                    raise InstanceRejected(
                        "the data set is not the instance that the command names",
                        dimse_status=DOES_NOT_MATCH_SOP_CLASS,
                        offending_tags=[tag],
                    )
        expected_study = self._study_instance_uid
        if expected_study is not None and uids[STUDY_INSTANCE_UID] != expected_study:
            raise InstanceRejected(
                "the instance belongs to another study than the request names",
                dimse_status=DOES_NOT_MATCH_STUDY,
                offending_tags=[STUDY_INSTANCE_UID],
            )

    def _transfer_syntax(self, content: Buffer) -> str:
        if self._announced is not None:
            return self._announced.transfer_syntax_uid
        named = self._splitter.transfer_syntax_uid if self._splitter is not None else ""
        return named or guess_transfer_syntax(content)
