"""The C-STORE and C-ECHO SCP.

Enters: associations of allowed callers. Leaves: one ``Arrival`` per C-STORE, and one row per
association that may carry instances. Success is answered after ``Arrival.finish`` has returned; a
refused instance is answered with its status and never ends the association.

Admission, in this order (PS3.8 9.3.4): protocol version (RJ 1/2/2), called AE title (1/1/7), calling AE
title (1/1/3), which the first bytes of a request show; application context (1/1/2), caller (1/1/3), drain
(2/3/1), associations of this peer and in total (2/3/2). Callers are peers by AE title and address, and where
both sides speak TLS by certificate; one that has a user identity proves it (1/2/1). Without any configured
peer everybody may call, which is why such a node may only listen on the loopback interface.

Transfer syntaxes: of those a peer offers in one context, ours comes first in the order that the table
of contexts gives: native lossless, compressed lossless, lossy.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event, Lock, Thread

from node.domain.errors import ConfigInvalid, TryLater
from node.domain.guesses import Guesses
from node.domain.instance import Ending, Origin, Transport
from node.domain.limits import DimseLimits
from node.domain.peers import Peer, UserIdentity, is_loopback_host, match_peer
from node.domain.tls import ServerTls
from node.observe import counts
from node.observe.beats import Beat
from node.receive.dimse_messages import VERIFICATION_SOP_CLASS_UID, Context, Transfer
from node.receive.ingest import Carried, Ingest
from node.receive.scp.door import Secure, SharedPorts, UpperLayer
from node.receive.scp.negotiation import (
    APPLICATION_CONTEXT_NAME,
    PROTOCOL_VERSION_NOT_SUPPORTED,
    AssociationRequest,
    Head,
    Identity,
    Refusal,
)
from node.receive.store import HEARTBEAT_S, AssociationLog
from node.tls import PortTls, names_in

# PS3.8 Table 9-21
NO_REASON_GIVEN = Refusal(1, 2, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED = Refusal(1, 1, 2)
CALLED_AE_TITLE_NOT_RECOGNIZED = Refusal(1, 1, 7)
CALLING_AE_TITLE_NOT_RECOGNIZED = Refusal(1, 1, 3)
TEMPORARY_CONGESTION = Refusal(2, 3, 1)
LOCAL_LIMIT_EXCEEDED = Refusal(2, 3, 2)

_NAMES_KEPT_S = 60.0
_STOP_S = 5.0
# associations beyond those that may be open, so that one too many gets its reason
_BEING_JUDGED = 206
# Verification has no data set; PS3.5 10.1: the default comes first
_VERIFICATION_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseSettings:
    """How the SCP listens and whom it serves.

    Args:
        ae_titles: Titles it answers to; the first is its own name.
        peers: Who may call; none: everybody, on a loopback address only.
        tls: How ``tls_port`` speaks TLS, or, where that is None, ``port``.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    ae_titles: tuple[str, ...] = ("SEGNODE",)
    peers: tuple[Peer, ...] = ()
    max_associations: int = 50
    max_associations_per_peer: int = 20
    limits: DimseLimits = field(default_factory=DimseLimits)
    tls: ServerTls | None = None
    tls_port: int | None = None

    def __post_init__(self) -> None:
        if not any(peer.ae_title for peer in self.peers) and not is_loopback_host(self.host):
            sentence = (
                f"{self.host} can be reached from other machines: "
                "add the peers that may call, or bind to 127.0.0.1"
            )
            raise ConfigInvalid([("dimse.host", sentence)])


def open_ports(settings: DimseSettings, processes: int = 1) -> SharedPorts:
    """Listen, for as many processes.

    Raises:
        ConfigInvalid: A port is in use, or the address is not ours to listen on.
    """
    ports = [settings.port]
    if settings.tls is not None and settings.tls_port is not None:
        ports.append(settings.tls_port)
    try:
        return SharedPorts(
            [(settings.host, port) for port in ports],
            places=(settings.max_associations, settings.max_associations_per_peer),
            processes=processes,
        )
    except OSError as error:
        raise ConfigInvalid([_why_not_listening(settings, error)]) from error


class DimseServer:
    """The SCP in one process: its associations and their rows.

    Args:
        contexts: Transfer syntaxes by storage SOP class, in our order of preference; Verification
            is added.
        ports: Ports that other processes serve, too; None: those of the settings, for this one.
        beat: Told at every round of the door.
    Raises:
        ConfigInvalid: A port is in use, or the address is not ours to listen on; files of TLS
            cannot be used.
    """

    def __init__(
        self,
        settings: DimseSettings,
        ingest: Ingest,
        associations: AssociationLog,
        contexts: Mapping[str, Sequence[str]],
        ports: SharedPorts | None = None,
        beat: Beat = lambda *_: None,
    ) -> None:
        secure = _secure(settings)
        shared = ports or open_ports(settings)
        self._admission = _Admission(settings, ingest, associations, shared)
        self._upper_layer = UpperLayer(
            shared,
            secure,
            {**contexts, VERIFICATION_SOP_CLASS_UID: _VERIFICATION_SYNTAXES},
            self._admission,
            limits=settings.limits,
            threads=settings.max_associations + _BEING_JUDGED,
            beat=beat,
        )
        self._stopping = Event()
        self._heart = Thread(target=self._beat, name="dimse-heartbeat", daemon=True)

    def start(self) -> None:
        """Serve whoever calls."""
        self._upper_layer.start()
        self._heart.start()

    @property
    def port(self) -> int:
        """The port that is listened on, also where 0 was asked for."""
        return self._upper_layer.ports[0]

    @property
    def tls_port(self) -> int:
        """The port that speaks TLS, where there is one."""
        return self._upper_layer.ports[-1]

    def open_associations(self) -> int:
        """Associations that hold a slot."""
        return len(self._admission.open_sessions())

    def drain(self, timeout_s: float) -> bool:
        """Refuse new associations, let every C-STORE in hand finish, then stop.

        Returns:
            Whether all associations ended by themselves within the time.
        """
        self._admission.refuse_all()
        deadline_s = time.monotonic() + timeout_s
        while self._admission.open_sessions() and time.monotonic() < deadline_s:
            self._upper_layer.retire()
            self._admission.changed.wait(0.05)
            self._admission.changed.clear()
        is_clean = not self._admission.open_sessions()
        self.stop()
        return is_clean

    def stop(self) -> None:
        """Close the port and abort what is open; an instance in hand leaves nothing behind."""
        self._stopping.set()
        self._admission.refuse_all()
        self._upper_layer.stop(_STOP_S)
        if self._heart.is_alive():
            self._heart.join(_STOP_S)

    def _beat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S):
            for session in self._admission.open_sessions():
                session.beat()


@dataclass(slots=True, eq=False)
class _Session:
    """One admitted association: its slot, its row, and its transfer once it is established."""

    origin: Origin
    slot: str
    admission: _Admission
    is_user_known: bool = False
    transfer: Transfer | None = None
    is_over: bool = False
    lock: Lock = field(default_factory=Lock)

    def establish(self, contexts: Mapping[int, Context], peer_max_pdu_bytes: int) -> Transfer:
        self.transfer = Transfer(self.admission.ingest, self.origin, contexts, peer_max_pdu_bytes)
        return self.transfer

    def beat(self) -> None:
        with self.lock:
            if self.is_over or not self.origin.association_id:
                return
            try:
                self.admission.associations.heartbeat(self.origin.association_id)
            except TryLater as late:
                _log.warning("no heartbeat for an association: %s", late)

    def end(self, ending: Ending) -> None:
        """Give the slot back and close the row, once; every instance was answered before."""
        with self.lock:
            if self.is_over:
                return
            self.is_over = True
        if self.transfer is not None:
            self.transfer.abandon()
        self.admission.leave(self)
        if not self.origin.association_id:
            return
        carried = self.transfer.carried if self.transfer is not None else Carried()
        try:
            self.admission.associations.closed(
                self.origin.association_id, ending, brought=carried.series, losses=carried.losses
            )
        except TryLater as late:
            # without heartbeats the row counts as aborted before long
            _log.warning("an association could not be closed in the index: %s", late)


class _Admission:
    """Who comes in, and how many."""

    def __init__(
        self,
        settings: DimseSettings,
        ingest: Ingest,
        associations: AssociationLog,
        ports: SharedPorts,
    ) -> None:
        self.ingest = ingest
        self.associations = associations
        self.changed = Event()
        self._settings = settings
        self._called = {title.strip() for title in settings.ae_titles}
        self._callers = {peer.ae_title.strip() for peer in settings.peers} - {""}
        self._names = _Names()
        self._guesses = Guesses(time.monotonic)
        self._lock = Lock()
        self._ports = ports
        self._places: dict[_Session, int] = {}
        self._is_closed = False

    def refusal_by(self, head: Head, address: str) -> Refusal | None:
        refusal = self._judge_head(head)
        if refusal is not None:
            _tell(refusal, head, address)
        return refusal

    def admit(self, request: AssociationRequest) -> _Session | Refusal:
        """Judge a request; what is admitted has its slot and its row."""
        admitted = self._admit(request)
        if isinstance(admitted, Refusal):
            _tell(admitted, request.head, request.address)
        return admitted

    def _judge_head(self, head: Head) -> Refusal | None:
        if not head.is_version_1:
            return PROTOCOL_VERSION_NOT_SUPPORTED
        if head.called_ae_title not in self._called:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if self._callers and head.calling_ae_title not in self._callers:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        return None

    def _admit(self, request: AssociationRequest) -> _Session | Refusal:
        peer = self._judge(request)
        if isinstance(peer, Refusal):
            return peer
        origin = Origin(
            transport=Transport.DIMSE,
            association_id="",
            peer=peer.name if peer else "",
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=request.address,
        )
        is_user_known = peer is not None and peer.user_identity is not None
        session = _Session(origin, origin.peer or request.address, self, is_user_known)
        refusal = self._enter(session)
        if refusal is not None:
            return refusal
        if request.abstract_syntaxes <= {VERIFICATION_SOP_CLASS_UID}:
            return session  # an echo sends nothing that anybody waits for
        try:
            session.origin = replace(origin, association_id=self.associations.opened(origin))
        except TryLater:
            self.leave(session)
            return TEMPORARY_CONGESTION
        return session

    def open_sessions(self) -> list[_Session]:
        with self._lock:
            return list(self._places)

    def refuse_all(self) -> None:
        with self._lock:
            self._is_closed = True

    def leave(self, session: _Session) -> None:
        with self._lock:
            place = self._places.pop(session, None)
            if place is not None:
                self._ports.leave(place)
        self.changed.set()

    def _judge(self, request: AssociationRequest) -> Peer | Refusal | None:
        """Which of the peers it is; None where everybody may call."""
        if request.application_context_name != APPLICATION_CONTEXT_NAME:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        peers = self._settings.peers
        peer = match_peer(peers, request.calling_ae_title, request.address, self._names.addresses)
        if peer is None and self._callers:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if peer is not None and not self._is_proved(peer, request):
            _log.warning(
                "the caller does not show the certificate of the peer it says it is",
                extra={"peer": peer.name, "address": request.address},
            )
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if peer is not None and (why := self._why_another_user(peer, request)):
            _log.warning(
                "the caller does not prove the user identity of the peer it says it is: %s",
                why,
                extra={"peer": peer.name, "address": request.address},
            )
            return NO_REASON_GIVEN  # PS3.7 D.3.3.7 has it so
        return peer if request.is_well_formed else NO_REASON_GIVEN

    def _why_another_user(self, peer: Peer, request: AssociationRequest) -> str:
        """Why a caller is not the user that its peer signs in as; empty where nobody asks, or it is."""
        if (wanted := peer.user_identity) is None:
            return ""
        if not request.identities:
            return "it names no user"
        given = request.identity
        if given is not None and not given.is_supported:
            return "Kerberos, SAML and JWT are not supported"
        with self._lock:
            if self._guesses.are_too_many(request.address, peer.name):
                counts.add(counts.SIGN_INS_FAILED, "dimse")
                return "too many wrong ones came before"
        if given is not None and _is_user(wanted, given):
            return ""
        with self._lock:
            self._guesses.note(request.address, peer.name)
        counts.add(counts.SIGN_INS_FAILED, "dimse")
        return "another user, or another passcode"

    def _is_proved(self, peer: Peer, request: AssociationRequest) -> bool:
        """Whether a caller speaks TLS as its peer does, with a certificate of the name it has."""
        if peer.tls is None or self._settings.tls is None:
            return True
        if request.certificate is None:
            return False
        return not peer.tls.name or peer.tls.name.lower() in names_in(request.certificate)

    def _enter(self, session: _Session) -> Refusal | None:
        with self._lock:
            if self._is_closed:
                return TEMPORARY_CONGESTION
            place = self._ports.take(session.slot)
            if place is None:
                return LOCAL_LIMIT_EXCEEDED
            self._places[session] = place
        return None


def _is_user(wanted: UserIdentity, given: Identity) -> bool:
    """Compare digests: in a time that says nothing, not even the length of a secret."""
    pairs = [(wanted.username.encode(), given.username)]
    if wanted.passcode is not None:
        pairs.append((wanted.passcode.value.encode(), given.passcode))
    digests = [[hashlib.sha256(each).digest() for each in pair] for pair in pairs]
    return all([hmac.compare_digest(*pair) for pair in digests])  # noqa: C419 - all are compared


class _Names:
    """Addresses of the host names among the peers, asked for at most once a minute."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, frozenset[str]]] = {}

    def addresses(self, host: str) -> frozenset[str]:
        asked_at_s, known = self._found.get(host, (-_NAMES_KEPT_S, frozenset()))
        if time.monotonic() - asked_at_s < _NAMES_KEPT_S:
            return known
        with suppress(OSError):  # a name server that is down must not lock out who was known
            known = frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
        self._found[host] = (time.monotonic(), known)
        return known


def _tell(refusal: Refusal, head: Head, address: str) -> None:
    counts.add(counts.ASSOCIATIONS_REFUSED, refusal.result, refusal.source, refusal.reason)
    _log.warning(
        "refused an association: result %d source %d reason %d",
        refusal.result,
        refusal.source,
        refusal.reason,
        extra={
            "calling_ae_title": ascii(head.calling_ae_title),
            "called_ae_title": ascii(head.called_ae_title),
            "address": address,
        },
    )


def _secure(settings: DimseSettings) -> Sequence[Secure | None]:
    """TLS of each port.

    Raises:
        ConfigInvalid: Files of TLS cannot be used.
    """
    if settings.tls is None:
        return [None]
    secure = PortTls(settings.tls, "dimse.tls").current
    return [secure] if settings.tls_port is None else [None, secure]


def _why_not_listening(settings: DimseSettings, error: OSError) -> tuple[str, str]:
    port, host = settings.port, settings.host
    if error.errno == errno.EADDRINUSE:
        return (
            "dimse.port",
            f"{port} on {host} is in use by another program: stop it, or change this",
        )
    if error.errno == errno.EACCES:
        return "dimse.port", f"{port} needs more rights than this process has: use one above 1023"
    return "dimse.host", f"cannot listen on {host}: {error.strerror or error}"
