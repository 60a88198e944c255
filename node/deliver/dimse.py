"""C-STORE as SCU: destinations of kind ``dimse``, and what else sends by pynetdicom.

pynetdicom has two races that lose answers; whoever sends goes around them with ``send_c_store`` and
``rejection_of``.

Source: PS3.4 Annex B, PS3.7 9.1.1, PS3.8 9.3 (association), 9.3.4 (A-ASSOCIATE-RJ), PS3.5 10.1
(default transfer syntax). ``Association._is_paused`` and ``_reactor_checkpoint`` of pynetdicom 3.0 are
looked at, where they are.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.deliver.destination import (
    Destination,
    Probe,
    blocked,
    classify_dimse,
    name_of_peer,
    result_file_gone,
    sick,
)
from node.domain.delivery import DeliverableObject, Outcome
from node.domain.peers import NO_AE_TITLE, Peer, UserIdentity, is_ae_title
from node.domain.settings import Mistake, OwnAeTitle, Timeout
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.tls import client_context, why_refused

_REJECTED_TRANSIENT = 0x02  # PS3.8 Table 9-21
_SLOWEST_BYTES_PER_S = 100_000
_LOOK_AGAIN_S = 0.0002
_TLS_ALERT_S = 1.0
_ANSWER_MAX_BYTES = 256 << 10
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
        user_identity: Who this node says that it is; None: nothing is said.
        answer_timeout_s: Wait for an answer after the object was sent; the time to send it at
            100 kB/s comes on top.
    """

    needs: ClassVar[str] = "`peer` with `ae_title` and `host`"
    does: ClassVar[str] = "C-STORE"
    service: ClassVar[str] = "Storage SCU"

    kind: Literal["dimse"] = "dimse"
    peer: Peer
    calling_ae_title: OwnAeTitle
    user_identity: UserIdentity | None = None
    connect_timeout_s: Timeout = 10.0
    negotiate_timeout_s: Timeout = 20.0
    answer_timeout_s: Timeout = 60.0

    def mistakes(self) -> Iterator[Mistake]:
        if not self.peer.is_reachable:
            yield "peer", f"peer {self.peer.name} needs ae_title and host to be sent to"
        if not is_ae_title(self.calling_ae_title):
            yield "calling_ae_title", NO_AE_TITLE

    @classmethod
    def answers(cls) -> Mapping[str, Mapping[str, Outcome]]:
        return {
            "C-STORE status": {f"0x{status:04X}": classify_dimse(status) for status in _ANSWERS},
            "association": {end.name.lower(): classify_association(end) for end in AssociationEnd},
        }

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Store one object over an association of its own."""
        if not Path(deliverable.path).is_file():
            return result_file_gone()
        time_to_send_s = deliverable.size_bytes / _SLOWEST_BYTES_PER_S
        heard = Heard()
        try:
            association = self.associate(
                _contexts_of(deliverable), self.answer_timeout_s + time_to_send_s, heard
            )
        except socket.gaierror:
            return classify_association(AssociationEnd.UNREACHABLE, "its host name has no address")
        except OSError as error:
            return sick(f"its files of TLS cannot be used: {why_refused(error)}")
        try:
            if not association.is_established:
                if heard.fault:
                    return sick(heard.fault)
                if (why := self.why_no_tls(association)) is not None:
                    return sick(f"no TLS with the destination: {why}")
                return _end_without_association(association)
            outcome = self._store(association, deliverable)
            return sick(heard.fault) if heard.fault and outcome.status is None else outcome
        finally:
            if association.is_established:
                association.release()

    def probe(self) -> Probe:
        """C-ECHO, and whether the peer would take a segmentation."""
        contexts = [
            build_context(Verification),
            build_context(SegmentationStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        ]
        where = f"{self.peer.ae_title} at {self.peer.host}:{self.peer.port}"
        try:
            association = self.associate(contexts, self.answer_timeout_s)
        except socket.gaierror:
            return Probe.bad(f"{where} has no address: check the host")
        except OSError as error:
            return Probe.bad(f"{where}: its files of TLS cannot be used: {why_refused(error)}")
        if not association.is_established:
            if (why := self.why_no_tls(association)) is not None:
                return Probe.bad(f"no TLS with {where}: {why}")
            if association.is_rejected:
                return Probe.bad(f"{where} rejects this node: check the AE titles on both sides")
            return Probe.bad(f"{where} does not answer")
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        try:
            has_echo = Verification in accepted and association.send_c_echo().get("Status", -1) == 0
        finally:
            association.release()
        if SegmentationStorage not in accepted:
            no = f"{where} answers but takes no Segmentation Storage: results are blocked"
            return Probe.bad(no)
        if not has_echo:
            return Probe.warning(f"{where} takes segmentations but answers no C-ECHO")
        return Probe.good(f"{where} answers C-ECHO and takes Segmentation Storage")

    def associate(
        self,
        contexts: Sequence[PresentationContext],
        answer_timeout_s: float,
        heard: Heard | None = None,
    ) -> Association:
        """Request an association; whether it is established is for the caller to look at.

        Args:
            heard: Learns what the peer may not say.
        Raises:
            socket.gaierror: The host name has no address.
            OSError: The files of TLS cannot be used.
        """
        tls = self.peer.tls
        secured = None if tls is None else _Secured(client_context(tls))
        heard = heard or Heard()
        heard.patience_s = self.negotiate_timeout_s + answer_timeout_s
        entity = AE(ae_title=self.calling_ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = self.connect_timeout_s
        entity.acse_timeout = self.negotiate_timeout_s
        entity.dimse_timeout = entity.network_timeout = answer_timeout_s
        # pynetdicom's switch for sending the bytes of a file as they are, in pieces
        _config.STORE_SEND_CHUNKED_DATASET = True
        association = entity.associate(
            self.peer.host,
            self.peer.port,
            contexts=list(contexts),
            ae_title=self.peer.ae_title,
            ext_neg=_negotiated(self.user_identity),
            evt_handlers=[(evt.EVT_CONN_OPEN, _prepare_line, [heard])],
            tls_args=(secured, tls.name or self.peer.host) if secured and tls else None,  # type: ignore[arg-type]
        )
        if secured is not None and not association.is_established:
            secured.close_what_failed()
        return association

    def why_no_tls(self, association: Association) -> str | None:
        """Why TLS was not agreed on, which pynetdicom does not tell; None where it is not that."""
        tls = self.peer.tls
        if tls is None or association.is_rejected or association.acceptor.primitive is not None:
            return None
        try:
            with (
                socket.create_connection(
                    (self.peer.host, self.peer.port), self.connect_timeout_s
                ) as plain,
                client_context(tls).wrap_socket(
                    plain, server_hostname=tls.name or self.peer.host
                ) as line,
            ):
                line.settimeout(_TLS_ALERT_S)
                # in TLS 1.3 the peer looks at our certificate only after the handshake is over here
                line.recv(1)
        except ssl.SSLError as error:
            return why_refused(error)
        except OSError:
            return None
        return None

    def _store(self, association: Association, deliverable: DeliverableObject) -> Outcome:
        payload = _payload(association, deliverable)
        if payload is None:
            return classify_association(AssociationEnd.NO_CONTEXT)
        started = time.monotonic()
        try:
            answer = send_c_store(association, payload, message_id=1)
        except RuntimeError:  # the association ended since it was looked at
            return classify_association(AssociationEnd.ABORTED)
        if "Status" in answer:
            return classify_dimse(int(answer.Status))
        waited_s = time.monotonic() - started
        peer_ended = any(map(association.acse.is_aborted, ("a-abort", "a-p-abort")))
        if peer_ended or waited_s < (association.dimse_timeout or 0.0):
            association.kill()  # pynetdicom notices only later, and would wait for answers
            return classify_association(AssociationEnd.ABORTED)
        return classify_association(AssociationEnd.TIMED_OUT)


def _negotiated(who: UserIdentity | None) -> list[Any]:
    """The user identity of a request; that it is verified need not be answered. PS3.7 D.3.3.7"""
    if who is None:
        return []
    item = UserIdentityNegotiation()
    item.primary_field = who.username.encode()
    item.user_identity_type = 1
    if who.passcode is not None:
        item.user_identity_type = 2
        item.secondary_field = who.passcode.value.encode()
    return [item]


class _Secured:
    """A context as pynetdicom asks it, which leaves a socket without a handshake open."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._context.sslsocket_class = _BoundedTlsLine
        self._line: ssl.SSLSocket | None = None

    def wrap_socket(self, line: socket.socket, **options: Any) -> ssl.SSLSocket:
        self._line = self._context.wrap_socket(line, **options)
        return self._line

    def close_what_failed(self) -> None:
        if self._line is not None and self._line.version() is None:
            self._line.close()


def _contexts_of(deliverable: DeliverableObject) -> list[PresentationContext]:
    syntaxes = [deliverable.transfer_syntax_uid]
    if deliverable.transfer_syntax_uid == ExplicitVRLittleEndian:
        # a context of its own, so that a peer with both does not choose the default
        syntaxes.append(ImplicitVRLittleEndian)
    return [build_context(deliverable.sop_class_uid, syntax) for syntax in syntaxes]


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


def implicit_destinations(
    peers: Iterable[Peer], calling_ae_title: str
) -> dict[str, DimseDestination]:
    reached = {name_of_peer(p): p for p in peers if p.is_reachable and not p.reply_to}
    return {
        name: DimseDestination(name=name, peer=peer, calling_ae_title=calling_ae_title)
        for name, peer in reached.items()
    }


class AssociationEnd(StrEnum):
    """How an association ended without an answer to the C-STORE."""

    UNREACHABLE = "no connection to the destination"
    REJECTED_TRANSIENT = "the destination rejected the association for now"
    REJECTED_PERMANENT = "the destination rejected the association for good"
    NO_CONTEXT = "the destination accepted no presentation context for the SOP class of the result"
    ABORTED = "the association was aborted or the line was lost"
    TIMED_OUT = "the destination did not answer in time"


def classify_association(end: AssociationEnd, detail: str = "") -> Outcome:
    """The class of an association that brought no C-STORE answer.

    Args:
        detail: What else is known, such as the reject reason; appended to the sentence.
    """
    sentence = f"{end}: {detail}" if detail else end.value
    is_for_good = end in (AssociationEnd.REJECTED_PERMANENT, AssociationEnd.NO_CONTEXT)
    return blocked(sentence) if is_for_good else sick(sentence)


# --- pynetdicom ----------------------------------------------------------------------------------


class Heard:
    """What a peer said since it was spoken to last.

    pynetdicom reads a PDU of any length that is announced, and PDUs without end until a message is
    whole. Nothing that a store answers is longer than a kilobyte, and an acceptance is a few.

    Attributes:
        patience_s: For how long it may go on.
        fault: Why the line was given up, in one sentence; empty where it was not.
    """

    def __init__(self) -> None:
        self.patience_s = inf
        self.fault = ""
        self._bytes = 0
        self._since_s = time.monotonic()

    def speak(self) -> None:
        """This side says something: what is heard from now on is the answer to it."""
        self._bytes, self._since_s = 0, time.monotonic()

    def take(self, size_bytes: int) -> None:
        """So much was heard.

        Raises:
            ConnectionAbortedError: It is too much, or takes too long; pynetdicom ends the line then.
        """
        self._bytes += size_bytes
        if self._bytes > _ANSWER_MAX_BYTES:
            self.fault = f"the destination's answer is longer than {_ANSWER_MAX_BYTES >> 10} KB"
        elif time.monotonic() - self._since_s > self.patience_s:
            self.fault = "the destination did not finish its answer in time"
        if self.fault:
            raise ConnectionAbortedError(self.fault)


class _BoundedLine(socket.socket):
    """A socket on which the peer's answers have a bound."""

    heard = Heard()

    def send(self, data: Any, flags: int = 0, /) -> int:
        self.heard.speak()
        return super().send(data, flags)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        data = super().recv(buflen, flags)
        self.heard.take(len(data))
        return data


class _BoundedTlsLine(_BoundedLine, ssl.SSLSocket):
    """The same over TLS."""


def _prepare_line(event: evt.Event, heard: Heard) -> None:
    """Bound what the peer answers, and send at once.

    Nagle's algorithm costs 40 ms per message against a peer with delayed acknowledgements.
    """
    transport = event.assoc.dul.socket
    if transport is None or transport.socket is None:
        return
    line = transport.socket
    if not isinstance(line, _BoundedLine):
        line = _BoundedLine(line.family, line.type, line.proto, fileno=line.detach())
        transport.socket = line
    line.heard = heard
    line.settimeout(heard.patience_s)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send_c_store(association: Association, payload: Path | Dataset, message_id: int) -> Dataset:
    """Store one instance; an empty data set says that no answer came.

    pynetdicom parks its reactor thread while a request is under way, and starts it again
    afterwards. A second request that follows at once can find the reactor still marked as parked
    although it was just told to go on: it wakes up, takes the answer for an unexpected message and
    drops it, and the request times out. So each request waits until the reactor is seen running.

    Raises:
        RuntimeError: The association has ended.
        ValueError: There is no presentation context for it.
    """
    while _is_waking(association) and association.is_alive():
        time.sleep(_LOOK_AGAIN_S)
    return association.send_c_store(payload, msg_id=message_id, priority=0)


def _is_waking(association: Association) -> bool:
    """Whether the reactor was told to go on and still stands; False where there is none to ask."""
    checkpoint = getattr(association, "_reactor_checkpoint", None)
    is_told = checkpoint is not None and checkpoint.is_set()
    return is_told and bool(getattr(association, "_is_paused", False))


def rejection_of(association: Association) -> A_ASSOCIATE | None:
    """The peer's rejection of an association that was requested, or None where there is none.

    A peer that rejects at once has the line closed again before the requesting thread looks whether
    there is one, and the rejection stays unread; so the queue is looked at as well.

    Source: PS3.8 7.1.1.7 (Result)
    """
    answer = association.acceptor.primitive or association.dul.receive_pdu()
    return answer if isinstance(answer, A_ASSOCIATE) and answer.result else None
