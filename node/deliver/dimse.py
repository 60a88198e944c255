"""Destinations of kind ``dimse``: results by C-STORE, as SCU.

Source: PS3.4 Annex B, PS3.7 9.1.1, PS3.8 9.3 (association), PS3.5 10.1 (default transfer syntax).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.deliver.classes import (
    AssociationEnd,
    classify_association,
    classify_dimse,
    result_file_gone,
)
from node.deliver.destination import Destination, Probe
from node.deliver.scu import rejection_of, send_c_store
from node.domain.delivery import DeliverableObject, Outcome
from node.domain.peers import NO_AE_TITLE, Peer, is_ae_title
from node.domain.settings import Mistake, OwnAeTitle, Timeout
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_REJECTED_TRANSIENT = 0x02  # PS3.8 Table 9-21
_SLOWEST_BYTES_PER_S = 100_000
# one of each class of answers, as PS3.4 B.2.3 and PS3.7 Annex C name them
_ANSWERS = (
    0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0111, 0x0116,
    0x0110, 0x0213, 0xA700, 0x0122, 0x0124, 0x0210, 0xA900, 0xC000,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseDestination(Destination):
    """A Storage SCP.

    Args:
        peer: Who it is and where it listens.
        calling_ae_title: This node's name.
        answer_timeout_s: Wait for an answer after the object was sent; the time to send it at
            100 kB/s comes on top.
    """

    needs: ClassVar[str] = "`peer` with `ae_title` and `host`"
    does: ClassVar[str] = "C-STORE"
    service: ClassVar[str] = "Storage SCU"

    kind: Literal["dimse"] = "dimse"
    peer: Peer
    calling_ae_title: OwnAeTitle
    connect_timeout_s: Timeout = 10.0
    negotiate_timeout_s: Timeout = 20.0
    answer_timeout_s: Timeout = 60.0

    def mistakes(self) -> Iterator[Mistake]:
        """A peer that cannot be reached, a name that is none."""
        if not self.peer.is_reachable:
            yield "peer", f"peer {self.peer.name} needs ae_title and host to be sent to"
        if not is_ae_title(self.calling_ae_title):
            yield "calling_ae_title", NO_AE_TITLE

    @classmethod
    def answers(cls) -> Mapping[str, Mapping[str, Outcome]]:
        """C-STORE statuses, and ends of an association without one."""
        return {
            "C-STORE status": {f"0x{status:04X}": classify_dimse(status) for status in _ANSWERS},
            "association": {end.value: classify_association(end) for end in AssociationEnd},
        }

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Store one object over an association of its own."""
        if not Path(deliverable.path).is_file():
            return result_file_gone()
        try:
            association = self._associate(deliverable)
        except socket.gaierror:
            return classify_association(AssociationEnd.UNREACHABLE, "its host name has no address")
        try:
            if not association.is_established:
                return _end_without_association(association)
            return self._store(association, deliverable)
        finally:
            if association.is_established:
                association.release()

    def probe(self) -> Probe:
        """C-ECHO, and whether the peer would take a segmentation."""
        entity = self._entity(self.answer_timeout_s)
        entity.add_requested_context(Verification)
        entity.add_requested_context(
            SegmentationStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        )
        where = f"{self.peer.ae_title} at {self.peer.host}:{self.peer.port}"
        try:
            association = entity.associate(
                self.peer.host, self.peer.port, ae_title=self.peer.ae_title
            )
        except socket.gaierror:
            return Probe.bad(f"{where} has no address: check the host")
        if not association.is_established:
            if association.is_rejected:
                return Probe.bad(f"{where} rejects this node: check the AE titles on both sides")
            return Probe.bad(f"{where} does not answer")
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        try:
            has_echo = Verification in accepted and association.send_c_echo().get("Status", -1) == 0
        finally:
            association.release()
        return _judge_probe(where, takes=SegmentationStorage in accepted, has_echo=has_echo)

    def _entity(self, answer_timeout_s: float) -> AE:
        entity = AE(ae_title=self.calling_ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = self.connect_timeout_s
        entity.acse_timeout = self.negotiate_timeout_s
        entity.dimse_timeout = answer_timeout_s
        return entity

    def _associate(self, deliverable: DeliverableObject) -> Association:
        entity = self._entity(self.answer_timeout_s + deliverable.size_bytes / _SLOWEST_BYTES_PER_S)
        entity.network_timeout = entity.dimse_timeout
        entity.add_requested_context(deliverable.sop_class_uid, deliverable.transfer_syntax_uid)
        if deliverable.transfer_syntax_uid == ExplicitVRLittleEndian:
            # a context of its own, so that a peer with both does not choose the default
            entity.requested_contexts = [
                *entity.requested_contexts,
                _context(deliverable.sop_class_uid, ImplicitVRLittleEndian),
            ]
        return entity.associate(
            self.peer.host,
            self.peer.port,
            ae_title=self.peer.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_without_delay)],
        )

    def _store(self, association: Association, deliverable: DeliverableObject) -> Outcome:
        payload = _payload(association, deliverable)
        if payload is None:
            return classify_association(AssociationEnd.NO_CONTEXT)
        # pynetdicom's switch for sending the bytes of a file as they are, in pieces
        _config.STORE_SEND_CHUNKED_DATASET = True
        started = time.monotonic()
        try:
            answer = send_c_store(association, payload, message_id=1)
        except RuntimeError:  # the association ended since it was looked at
            return classify_association(AssociationEnd.ABORTED)
        if "Status" in answer:
            return classify_dimse(int(answer.Status))
        waited_s = time.monotonic() - started
        if _peer_ended(association) or waited_s < (association.dimse_timeout or 0.0):
            association.kill()  # pynetdicom notices only later, and would wait for answers
            return classify_association(AssociationEnd.ABORTED)
        return classify_association(AssociationEnd.TIMED_OUT)


def _judge_probe(where: str, *, takes: bool, has_echo: bool) -> Probe:
    if not takes:
        return Probe.bad(f"{where} answers but takes no Segmentation Storage: results are blocked")
    if not has_echo:
        return Probe.warning(f"{where} takes segmentations but answers no C-ECHO")
    return Probe.good(f"{where} answers C-ECHO and takes Segmentation Storage")


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
