"""The listening port: one thread for all who have not asked yet, and for all who have left.

A connection waits here without a thread of its own until its A-ASSOCIATE-RQ is whole, for a time that
bytes do not prolong, and again after its association until the peer has closed. So thousands of silent
ones cost a descriptor and a kilobyte each, and whoever asks is never behind one who does not. When one
address holds too many, the newcomer displaces the one of them that has waited longest.

Several processes may share the ports. A connection goes to the one that has least to do: the others
leave it alone for a moment. Places of associations are counted over all of them.

Source: PS3.8 9.1.2, 9.1.4 (ARTIM timer), 9.2 (Sta2, Sta13).
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import resource
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import takewhile
from math import inf
from tempfile import TemporaryFile
from threading import Lock, Thread

from node.domain.limits import DimseLimits
from node.observe import counts
from node.observe.beats import Beat
from node.receive.dimse_messages import UNEXPECTED_PDU, ProtocolFault
from node.receive.scp.association import Association, Event, Gate, Line, State
from node.receive.scp.negotiation import (
    HEAD_BYTES,
    AssociationRequest,
    Refusal,
    decode_head,
    decode_request,
)
from node.receive.scp.wire import LineLost, Wire
from node.tls import why_refused

# How long a peer may take to close after release, reject or abort. PS3.8 9.2 (Sta13)
LINGER_S = 2.0
# descriptors that are for files, the database, associations: what is left is for those that wait
_FOR_OTHERS = 800
_BACKLOG = 512
# far fewer than make one give way: whoever has asked is heard before it is the oldest
_AT_ONCE = 50
_LOOK_S = 0.25
_ROUND_S = 5.0
# how long a connection is left to a process that has less to do
_TURN_S = 0.01
_WORD_BYTES = 8
_NO_ROOM = Refusal(2, 3, 2)
_A_ASSOCIATE_RQ = 0x01

_log = logging.getLogger(__name__)


Secure = Callable[[], ssl.SSLContext]
"""TLS of a port, as it is now."""


class SharedPorts:
    """Listening sockets of one or several processes, and what these count together.

    Made before the processes are; each of them calls ``begin``. What they share is a row of words per
    process: its load, which it alone writes, and its places, taken under a lock of the file, which
    the kernel opens again when a process dies.

    Args:
        addresses: Where to listen; port 0: any free one.
        processes: How many share it.
        places: Associations at once in all processes, and of one caller.
    Attributes:
        listeners: The sockets, in the order of the addresses.
    Raises:
        OSError: An address cannot be bound.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        *,
        places: tuple[int, int],
        processes: int = 1,
    ) -> None:
        self.listeners: list[socket.socket] = []
        try:
            for address in addresses:
                self.listeners.append(_listening(address))
        except OSError:
            self._stop_listening()
            raise
        self._most, self._most_per_caller = places
        self._width = 1 + self._most
        self._processes = processes
        self._process = 0
        size = processes * self._width * _WORD_BYTES
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the processes
        self._file.truncate(size)
        self._words = memoryview(mmap.mmap(self._file.fileno(), size)).cast("Q")
        self._lock = Lock()

    def begin(self, process: int) -> None:
        """From now on this is the process of that number, with nothing in hand."""
        self.forget(process)
        self._process = process
        self.set_load(0)

    def forget(self, process: int) -> None:
        """A process is gone, and all that it held."""
        for word in range(process * self._width, (process + 1) * self._width):
            self._words[word] = 0

    def set_load(self, load: int) -> None:
        """How many lines this process has in hand."""
        self._words[self._process * self._width] = load + 1  # 0: no process

    @property
    def is_least_busy(self) -> bool:
        """Whether no other process has less to do."""
        loads = self._words[:: self._width].tolist()
        mine = loads[self._process]
        return all(not load or load >= mine for load in loads)

    def take(self, caller: str) -> int | None:
        """A place for an association; None where the caller, or all, have as many as they may."""
        key = int.from_bytes(blake2b(caller.encode(), digest_size=_WORD_BYTES).digest(), "big") or 1
        with self._locked():
            rows = [self._places(process) for process in range(self._processes)]
            taken = [word for row in rows for word in row if word]
            if len(taken) >= self._most or taken.count(key) >= self._most_per_caller:
                return None
            place = self._process * self._width + 1 + rows[self._process].index(0)
            self._words[place] = key
            return place

    def leave(self, place: int) -> None:
        """A place is free again."""
        self._words[place] = 0

    def close(self) -> None:
        """Stop listening, in this process; places are taken no more."""
        self._stop_listening()
        self._file.close()

    def _stop_listening(self) -> None:
        for listener in self.listeners:
            listener.close()

    def _places(self, process: int) -> list[int]:
        first = process * self._width + 1
        return self._words[first : first + self._most].tolist()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)


class UpperLayer:
    """Listening ports and their associations, in one process.

    Args:
        secure: TLS of each port, None for one without; in the order of its listeners.
        contexts: Transfer syntaxes by abstract syntax, in our order of preference.
        threads: Associations that are open or being judged, at most.
        beat: Told at every round of the door.
    Attributes:
        ports: Those that are listened on, also where 0 was asked for, in the same order.
    """

    def __init__(
        self,
        shared: SharedPorts,
        secure: Sequence[Secure | None],
        contexts: Mapping[str, Sequence[str]],
        gate: Gate,
        *,
        limits: DimseLimits,
        threads: int,
        beat: Beat = lambda *_: None,
    ) -> None:
        self._contexts = contexts
        self._beat = beat
        self._gate = gate
        self._limits = limits
        self._threads = threads
        self._shared = shared
        self._listeners = dict(zip(shared.listeners, secure, strict=True))
        self.ports = [int(listener.getsockname()[1]) for listener in self._listeners]
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._listen()
        self._listens_again_s = inf
        self._has_stood_back = False
        self._waiting = _Waiting(limits)
        self._lingering = _Waiting(limits)
        self._lock = Lock()
        self._associations: set[Association] = set()
        self._returned: deque[Line] = deque()
        self._is_stopping = False
        self._thread = Thread(target=self._attend, name="dimse-door", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Let every association end after the message in hand, by A-ABORT."""
        for association in self._open():
            association.retire()

    def stop(self, timeout_s: float) -> None:
        """Stop listening, cut what is left, wait for the threads."""
        with self._lock:
            self._is_stopping = True
        self._wake()
        deadline_s = time.monotonic() + timeout_s
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        else:
            self._close()
        for association in self._open():
            association.cut()
        for association in self._open():
            association.join(max(deadline_s - time.monotonic(), 0.05))

    # ---- called by threads of associations

    def _take_back(self, association: Association) -> None:
        """An association is over; its line stays until the peer has closed."""
        with self._lock:
            self._associations.discard(association)
            is_closed = self._is_stopping
            if not is_closed:
                self._returned.append(association.line)
        if is_closed:
            association.line.wire.end_sending()
            association.line.wire.close()
        else:
            self._wake()

    # ---- the thread

    def _attend(self) -> None:
        while not self._is_stopping:
            try:
                self._look()
            except Exception:  # noqa: BLE001 - one line's trouble must not close the port
                _log.exception("the door stumbled")
        self._close()

    def _look(self) -> None:
        self._beat("door", _ROUND_S)
        now_s = time.monotonic()
        if self._listens_again_s <= now_s:
            self._listen()
            self._listens_again_s, self._has_stood_back = inf, True
        due_s = min(
            self._waiting.first_due_s,
            self._lingering.first_due_s,
            self._listens_again_s,
            now_s + _LOOK_S,
        )
        for key, _ in self._selector.select(max(due_s - now_s, 0.0)):
            if isinstance(key.fileobj, socket.socket) and key.fileobj in self._listeners:
                self._let_come(key.fileobj, self._listeners[key.fileobj])
            elif key.fileobj is self._wakened:
                with suppress(OSError):
                    self._wakened.recv(4096)
            elif (line := key.data) in self._waiting:
                self._hear(line)
                while line in self._waiting and line.wire.holds_more:
                    self._hear(line)
            elif line in self._lingering and not line.wire.discard():
                self._drop(self._lingering, line, Event.CLOSED)
        self._has_stood_back = False
        while self._returned:
            self._linger(self._returned.popleft(), is_known=False)
        now_s = time.monotonic()
        for lines in (self._waiting, self._lingering):
            for line in lines.due(now_s):
                if lines is self._waiting:
                    counts.add(counts.CONNECTIONS_ENDED, "dimse", "no request in time")
                self._drop(lines, line, Event.TIMER_EXPIRED)
        self._tell_load()

    def _tell_load(self) -> None:
        self._shared.set_load(len(self._waiting) + len(self._associations))

    def _listen(self) -> None:
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ)

    def _stand_back(self) -> None:
        """Leave who comes to a process with less to do; unless it does not come for them."""
        if self._listens_again_s == inf:
            for listener in self._listeners:
                self._selector.unregister(listener)
            self._listens_again_s = time.monotonic() + _TURN_S

    def _let_come(self, listener: socket.socket, secure: Secure | None) -> None:
        """Take some of the connections of the backlog while it is this process's turn; then hear them."""
        for _ in range(_AT_ONCE):
            if not self._has_stood_back and not self._shared.is_least_busy:
                self._stand_back()
                return
            self._has_stood_back = False
            try:
                connection, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                told = {"address": "any"}  # so that they are few: it may be so for long
                _log.warning("a connection could not be taken: %s", error.strerror, extra=told)
                counts.add(counts.CONNECTIONS_ENDED, "dimse", "no descriptor")
                time.sleep(0.01)  # descriptors are short: those that leave make room
                return
            try:
                if secure is not None:
                    connection = secure().wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                line = Line(Wire(connection, self._limits.max_pdu_bytes), _plain(str(peer[0])))
            except OSError:  # it left at once
                connection.close()
                continue
            crowd = self._waiting.in_the_way_of(line.address)
            if crowd is not None:
                _log.warning("too many wait without asking", extra={"address": crowd.address})
                counts.add(counts.CONNECTIONS_ENDED, "dimse", "crowded out")
                self._drop(self._waiting, crowd, Event.TIMER_EXPIRED)
            self._selector.register(line.wire, selectors.EVENT_READ, line)
            self._waiting.add(line, time.monotonic() + self._limits.negotiation_timeout_s)
            self._tell_load()

    def _hear(self, line: Line) -> None:
        """More of a request came, or its end."""
        try:
            if not line.wire.shake_hands():
                return
        except OSError as error:
            sentence = why_refused(error)
            _log.warning("no TLS: %s", sentence, extra={"address": line.address})
            counts.add(counts.CONNECTIONS_ENDED, "dimse", "no TLS")
            self._drop(self._waiting, line, Event.CLOSED)
            return
        try:
            if not line.wire.fill():
                self._drop(self._waiting, line, Event.CLOSED)
            elif (event := line.next_event()) is not None:
                self._answer(line, event)
            else:
                self._look_at_head(line)
        except LineLost:
            self._drop(self._waiting, line, Event.CLOSED)
        except ProtocolFault as fault:
            self._break_off(line, Event.GOT_INVALID, fault)

    def _look_at_head(self, line: Line) -> None:
        """The titles of a request come first: of who is no peer, the rest is not waited for."""
        body = line.wire.body_so_far()
        if line.wire.next_type == _A_ASSOCIATE_RQ and len(body) >= HEAD_BYTES:
            refusal = self._gate.refusal_by(decode_head(body), line.address)
            if refusal is not None:
                self._refuse(line, refusal)

    def _answer(self, line: Line, event: Event) -> None:
        if event is Event.GOT_ABORT:
            self._drop(self._waiting, line, event)
            return
        body = line.wire.take_body()
        if event is not Event.GOT_REQUEST:
            fault = ProtocolFault("PDU before a request", UNEXPECTED_PDU)
            self._break_off(line, event, fault)
            return
        request = decode_request(body, line.address)
        if (certificate := line.wire.certificate) is not None:
            request = replace(request, certificate=certificate)
        refusal = self._gate.refusal_by(request.head, line.address)
        if refusal is not None:
            self._refuse(line, refusal)
            return
        line.machine.take(event)
        self._waiting.remove(line)
        self._selector.unregister(line.wire)
        self._hand_over(line, request)

    def _hand_over(self, line: Line, request: AssociationRequest) -> None:
        association = Association(
            line,
            request,
            self._gate,
            self._contexts,
            limits=self._limits,
            done=self._take_back,
        )
        with self._lock:
            is_room = len(self._associations) < self._threads
            if is_room:
                self._associations.add(association)
        try:
            if is_room:
                association.start()
                return
        except RuntimeError:  # no more threads
            with self._lock:
                self._associations.discard(association)
        _log.warning("refused an association: too many at once", extra={"address": line.address})
        counts.add(counts.ASSOCIATIONS_REFUSED, _NO_ROOM.result, _NO_ROOM.source, _NO_ROOM.reason)
        line.refuse(_NO_ROOM)
        self._linger(line, is_known=False)

    def _refuse(self, line: Line, refusal: Refusal) -> None:
        line.machine.take(Event.GOT_REQUEST)
        line.refuse(refusal)
        self._linger(line)

    def _break_off(self, line: Line, event: Event, fault: ProtocolFault) -> None:
        _log.warning("connection aborted: %s", fault, extra={"address": line.address})
        counts.add(counts.ASSOCIATIONS_ABORTED, "no request")
        line.break_off(event, fault.reason)
        self._linger(line)

    def _linger(self, line: Line, *, is_known: bool = True) -> None:
        """Give the peer time to read what was said and to close first."""
        if is_known:
            self._waiting.remove(line)
        if line.machine.state is State.IDLE:
            self._forget(line, is_known=is_known)
            return
        line.wire.end_sending()
        crowd = self._lingering.in_the_way_of(line.address)
        if crowd is not None:
            self._drop(self._lingering, crowd, Event.TIMER_EXPIRED)
        if not is_known:
            self._selector.register(line.wire, selectors.EVENT_READ, line)
        self._lingering.add(line, time.monotonic() + LINGER_S)

    def _drop(self, lines: _Waiting, line: Line, event: Event) -> None:
        line.machine.take(event)
        lines.remove(line)
        self._forget(line)

    def _forget(self, line: Line, *, is_known: bool = True) -> None:
        if is_known:
            self._selector.unregister(line.wire)
        line.wire.close()

    def _close(self) -> None:
        self._shared.close()
        with self._lock:
            returned = list(self._returned)
            self._returned.clear()
        for line in (*self._waiting, *self._lingering, *returned):
            line.wire.close()
        self._selector.close()
        self._waker.close()
        self._wakened.close()

    def _open(self) -> list[Association]:
        with self._lock:
            return list(self._associations)

    def _wake(self) -> None:
        with suppress(OSError):  # full: it will wake anyway; closed: it is gone
            self._waker.send(b"\0")


class _Waiting:
    """Lines with their deadlines, all of the same length, so that they come due as they came."""

    def __init__(self, limits: DimseLimits) -> None:
        self.most = _most_waiting(limits.waiting)
        self._most_of_address = limits.waiting_per_address
        self._due_s: dict[Line, float] = {}  # in the order of their coming
        self._of: dict[str, dict[Line, None]] = {}

    def __contains__(self, line: object) -> bool:
        return line in self._due_s

    def __len__(self) -> int:
        return len(self._due_s)

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._due_s))

    @property
    def is_empty(self) -> bool:
        return not self._due_s

    @property
    def first_due_s(self) -> float:
        """The first deadline; infinity where nobody waits."""
        return next(iter(self._due_s.values()), inf)

    def add(self, line: Line, due_s: float) -> None:
        self._due_s[line] = due_s
        self._of.setdefault(line.address, {})[line] = None

    def remove(self, line: Line) -> None:
        del self._due_s[line]
        mine = self._of[line.address]
        del mine[line]
        if not mine:
            del self._of[line.address]

    def due(self, now_s: float) -> list[Line]:
        """Those whose time is over."""
        return [
            line for line, due_s in takewhile(lambda each: each[1] <= now_s, self._due_s.items())
        ]

    def in_the_way_of(self, address: str) -> Line | None:
        """Who makes room for a newcomer of an address, where there is none."""
        mine = self._of.get(address, {})
        if len(mine) >= self._most_of_address:
            return next(iter(mine))
        return next(iter(self._due_s)) if len(self._due_s) >= self.most else None


def _most_waiting(wanted: int) -> int:
    """How many may wait under the limit of open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit < 0 else min(wanted, max((limit - _FOR_OTHERS) // 2, 50))


def _listening(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _plain(address: str) -> str:
    """An IPv4 address that came in by an IPv6 socket, as it is."""
    return address.removeprefix("::ffff:")
