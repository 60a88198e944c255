"""Results by C-STORE, as SCU.

Source: PS3.4 Annex B, PS3.7 9.1.1, PS3.8 9.3 (association), PS3.5 10.1 (default transfer syntax).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.deliver.classes import (
    AssociationEnd,
    classify_association,
    classify_dimse,
    result_file_gone,
)
from node.deliver.scu import rejection_of, send_c_store
from node.domain.delivery import DeliverableObject, Outcome
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_REJECTED_TRANSIENT = 0x02  # PS3.8 Table 9-21
_SLOWEST_BYTES_PER_S = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseDestination:
    """A Storage SCP.

    Args:
        ae_title: Called AE title: the peer's name for itself.
        calling_ae_title: This node's name.
        answer_timeout_s: Wait for an answer after the object was sent; the time to send it at
            100 kB/s comes on top.
    """

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    connect_timeout_s: float = 10.0
    negotiate_timeout_s: float = 20.0
    answer_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for title in (self.ae_title, self.calling_ae_title):
            if not title.strip() or len(title) > 16:
                raise ValueError(f"{self.name}: AE title {title!r} is empty or over 16 characters")
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.name}: port {self.port}")

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Store one object over an association of its own."""
        return self.send_all([deliverable])[0]

    def send_all(self, deliverables: Sequence[DeliverableObject]) -> tuple[Outcome, ...]:
        """Store several objects over one association; each has an outcome of its own.

        What comes after a lost line was not tried, and ends as the line did.
        """
        if any(not Path(each.path).is_file() for each in deliverables):
            present = [each for each in deliverables if Path(each.path).is_file()]
            sent = iter(self.send_all(present) if present else ())
            return tuple(next(sent) if e in present else result_file_gone() for e in deliverables)
        try:
            association = self._associate(deliverables)
        except socket.gaierror:
            end = classify_association(AssociationEnd.UNREACHABLE, "its host name has no address")
            return (end,) * len(deliverables)
        try:
            if not association.is_established:
                return (_end_without_association(association),) * len(deliverables)
            return self._store_all(association, deliverables)
        finally:
            if association.is_established:
                association.release()

    def _associate(self, deliverables: Sequence[DeliverableObject]) -> Association:
        entity = AE(ae_title=self.calling_ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = self.connect_timeout_s
        entity.acse_timeout = self.negotiate_timeout_s
        largest_bytes = max(each.size_bytes for each in deliverables)
        entity.dimse_timeout = self.answer_timeout_s + largest_bytes / _SLOWEST_BYTES_PER_S
        entity.network_timeout = entity.dimse_timeout
        for sop_class_uid, syntax in dict.fromkeys(
            (each.sop_class_uid, each.transfer_syntax_uid) for each in deliverables
        ):
            entity.add_requested_context(sop_class_uid, syntax)
            if syntax == ExplicitVRLittleEndian:
                # a context of its own, so that a peer with both does not choose the default
                entity.requested_contexts = [
                    *entity.requested_contexts,
                    _context(sop_class_uid, ImplicitVRLittleEndian),
                ]
        return entity.associate(
            self.host,
            self.port,
            ae_title=self.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_without_delay)],
        )

    def _store_all(
        self, association: Association, deliverables: Sequence[DeliverableObject]
    ) -> tuple[Outcome, ...]:
        outcomes: list[Outcome] = []
        for message_id, deliverable in enumerate(deliverables, start=1):
            if not association.is_established:
                outcomes.append(classify_association(AssociationEnd.ABORTED))
                continue
            outcomes.append(self._store(association, deliverable, message_id))
        return tuple(outcomes)

    def _store(
        self, association: Association, deliverable: DeliverableObject, message_id: int
    ) -> Outcome:
        payload = _payload(association, deliverable)
        if payload is None:
            return classify_association(AssociationEnd.NO_CONTEXT)
        # pynetdicom's switch for sending the bytes of a file as they are, in pieces
        _config.STORE_SEND_CHUNKED_DATASET = True
        started = time.monotonic()
        try:
            answer = send_c_store(association, payload, message_id)
        except RuntimeError:  # the association ended since it was looked at
            return classify_association(AssociationEnd.ABORTED)
        if "Status" in answer:
            return classify_dimse(int(answer.Status))
        waited_s = time.monotonic() - started
        if _peer_ended(association) or waited_s < (association.dimse_timeout or 0.0):
            association.kill()  # pynetdicom notices only later, and would wait for answers
            return classify_association(AssociationEnd.ABORTED)
        return classify_association(AssociationEnd.TIMED_OUT)


def _context(sop_class_uid: str, syntax: str) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = sop_class_uid
    context.transfer_syntax = [syntax]
    return context


def _payload(association: Association, deliverable: DeliverableObject) -> Path | Dataset | None:
    """The file itself; decoded only where the peer takes nothing but the default syntax."""
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == deliverable.sop_class_uid
    }
    if deliverable.transfer_syntax_uid in accepted:
        return Path(deliverable.path)
    if ImplicitVRLittleEndian in accepted:
        return dcmread(deliverable.path)
    return None


def _send_without_delay(event: evt.Event) -> None:
    """Nagle's algorithm costs 40 ms per message against a peer with delayed acknowledgements."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _peer_ended(association: Association) -> bool:
    return bool(association.acse.is_aborted("a-abort") or association.acse.is_aborted("a-p-abort"))


def _end_without_association(association: Association) -> Outcome:
    rejection = rejection_of(association)
    if rejection is not None:
        transient = rejection.result == _REJECTED_TRANSIENT
        end = AssociationEnd.REJECTED_TRANSIENT if transient else AssociationEnd.REJECTED_PERMANENT
        return classify_association(end, rejection.reason_str.lower())
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        return classify_association(AssociationEnd.NO_CONTEXT)
    address = association.requestor.address_info
    if address is not None and address.port:  # the local end, known once connected
        return classify_association(AssociationEnd.ABORTED)
    return classify_association(AssociationEnd.UNREACHABLE)
