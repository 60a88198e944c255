"""STOW-RS origin server: POST {prefix}/studies and {prefix}/studies/{study}.

The event loop reads the socket and hands pieces to one worker thread per request
(``stow_parts.PartReceiver``), which writes them to files as they come: a request costs at most
``BUFFERED_BYTES`` of memory, whatever its size, and a slow disk slows the client and nobody else. It gets
its thread when the body is over or ``HEAD_BYTES`` of it have come, so that bodies that drip keep nobody out.

Answers: 200 all kept; 202 some kept; 409 none kept; 400 the body is not what it says it is, or a
UID in the path is none; 406, 411 to 415 by the headers; 408 the client fell silent; 503 with
Retry-After when there is no room or too many requests run. What the answer lists as kept is
durable, also under 400 and 408: parts before the fault stay.

One subject, and so one module of more than 300 lines: requests and answers as HTTP has them.

Source: PS3.18 8, 10.5, Annexes F (JSON) and I; PS3.19 A.1 (Native DICOM Model)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from node.domain.instance import Origin, Transport
from node.domain.limits import WebLimits
from node.domain.peers import Peer, match_http_user
from node.domain.uids import is_uid
from node.receive.mime import MediaTypeMalformed, best_of, boundary_of, parse_media_type
from node.receive.stow_parts import DICOM_TYPE, BodyPipe, PartReceiver, Reply, RequestRefused

JSON_TYPE = "application/dicom+json"
XML_TYPE = "application/dicom+xml"

# DICOM JSON is what clients parse without being asked to
ANSWER_TYPES = (JSON_TYPE, XML_TYPE)

HEAD_BYTES: Final = 16 * 1024
RETRY_AFTER_S: Final = 60
# of the instances of an answer that is made on the way
_FEW: Final = 200

_METHODS: Final = ("OPTIONS", "POST")
_ANY_METHOD: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


@dataclass(slots=True)
class _Head:
    """What came of a body before it was given a thread.

    Args:
        is_over: Nothing follows, whether it is whole or its client left or fell silent.
    """

    pieces: list[bytes] = field(default_factory=list)
    is_over: bool = False
    is_whole: bool = False


class StowService:
    """The service as an ASGI application to be mounted; owns its worker threads.

    Args:
        peers: Of which one may be named after the user of a request.
        strict_accept: Whether a request without Accept is refused, as PS3.18 8.7.7 has it.
    """

    def __init__(
        self,
        receiver: PartReceiver,
        *,
        peers: Iterable[Peer] = (),
        limits: WebLimits = WebLimits(),
        strict_accept: bool = False,
    ) -> None:
        self._receiver = receiver
        self._peers = tuple(peers)
        self._limits = limits
        self._strict_accept = strict_accept
        self._running = 0
        self._threads = ThreadPoolExecutor(limits.max_stow_requests, thread_name_prefix="stow")
        # each waits for the rows of its instances: all of them at once
        self._closers = ThreadPoolExecutor(8, thread_name_prefix="stow-close")
        self.application = Starlette(
            routes=[
                Route("/", _capabilities, methods=["OPTIONS"]),
                Route("/studies", self._store, methods=list(_METHODS)),
                Route("/studies/{study}", self._store, methods=list(_METHODS)),
                Route("/studies/{study}/{rest:path}", _elsewhere, methods=list(_ANY_METHOD)),
            ],
            exception_handlers={RequestRefused: _refusal},
        )

    def close(self) -> None:
        """Wait for the requests in hand; the server accepts no more by then."""
        self._threads.shutdown(wait=True)
        self._closers.shutdown(wait=True)

    async def _store(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return await _capabilities(request)
        study = _study_of(request)
        answer_type = _answer_type(request, strict=self._strict_accept)
        boundary = _boundary(request)
        self._refuse_too_long(request)
        async with aclosing(request.stream()) as stream:
            head = await self._head_of(stream)
            self._require_room()
            self._running += 1
            try:
                reply = await self._receive(request, head, stream, boundary, study)
            finally:
                self._running -= 1
        return await self._answer(reply, answer_type)

    def _refuse_too_long(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        limit = self._limits.max_stow_bytes
        if length.isdigit() and int(length) > limit:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {limit} bytes"
            )

    def _require_room(self) -> None:
        if self._running >= self._limits.max_stow_requests:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many requests at once",
                headers={"Retry-After": "5"},
            )

    async def _head_of(self, stream: AsyncIterator[bytes]) -> _Head:
        """What comes first of a body, or all of it."""
        head = _Head()
        while not head.is_over and sum(map(len, head.pieces)) < HEAD_BYTES:
            try:
                async with asyncio.timeout(self._limits.stow_idle_s):
                    head.pieces.append(await anext(stream))
            except StopAsyncIteration:
                head.is_whole = head.is_over = True
            except (TimeoutError, ClientDisconnect):
                head.is_over = True
        return head

    async def _receive(
        self,
        request: Request,
        head: _Head,
        stream: AsyncIterator[bytes],
        boundary: bytes | None,
        study: str | None,
    ) -> Reply:
        """Pump the body into the worker thread and wait for what it says."""
        loop = asyncio.get_running_loop()
        pipe = BodyPipe(loop)
        try:
            working = loop.run_in_executor(
                self._threads, self._receiver.receive, pipe, boundary, self._origin(request), study
            )
        except RuntimeError:  # no more threads
            pipe.end()
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "no thread can be started",
                headers={"Retry-After": "5"},
            ) from None
        working.add_done_callback(lambda _future: pipe.leave())
        pumping = asyncio.create_task(self._pump(head, stream, pipe))
        try:
            # the answer may stand before the body is over: then the rest of it is not awaited
            await asyncio.wait(
                (pumping, working),
                timeout=self._limits.stow_request_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            pumping.cancel()
            pipe.end()
        with suppress(asyncio.CancelledError, TimeoutError, ClientDisconnect):
            await pumping  # the pipe says whether the body is whole
        reply = await working
        self._closers.submit(self._receiver.close, reply)
        return reply

    async def _pump(self, head: _Head, stream: AsyncIterator[bytes], pipe: BodyPipe) -> None:
        for piece in head.pieces:
            if piece and not await pipe.put(piece):
                return
        if head.is_whole:
            pipe.end(is_whole=True)
        while not head.is_over:
            try:
                async with asyncio.timeout(self._limits.stow_idle_s):
                    piece = await anext(stream)
            except StopAsyncIteration:
                pipe.end(is_whole=True)
                return
            if piece and not await pipe.put(piece):
                return

    def _origin(self, request: Request) -> Origin:
        user = str(request.scope.get("segnode.user", ""))
        peer = match_http_user(self._peers, user)
        return Origin(
            transport=Transport.STOW,
            association_id="",
            peer=peer.name if peer else "",
            address=request.client.host if request.client else "",
            http_user=user,
        )

    async def _answer(self, reply: Reply, answer_type: str) -> Response:
        headers = {}
        if reply.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if reply.is_empty:
            raise RequestRefused(reply.status, reply.reason, headers=headers)
        if len(reply.stored) + len(reply.failed) < _FEW:
            body = _rendered(reply, answer_type)
        else:  # it takes a second for 50,000, in which nobody else would be heard
            body = await run_in_threadpool(_rendered, reply, answer_type)
        # the media type stands alone, without a charset (PS3.18 8.7.3)
        return Response(body, reply.status, headers, media_type=answer_type)


def _rendered(reply: Reply, answer_type: str) -> bytes:
    return render(store_instances_response(reply), answer_type)


async def _elsewhere(request: Request) -> Response:
    """A path below a study: an encoded slash makes it a malformed UID, else nothing is there."""
    if b"%2f" in request.scope.get("raw_path", b"").lower():
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the study in the path is no UID")
    raise RequestRefused(HTTPStatus.NOT_FOUND, "no such resource")


def _study_of(request: Request) -> str | None:
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the study in the path is no UID")
    return study


def _answer_type(request: Request, *, strict: bool) -> str:
    """The media type of the answer (PS3.18 8.7.5: query parameter, then header)."""
    accept = request.query_params.getlist("accept") or request.headers.getlist("accept")
    if strict and not accept:
        raise RequestRefused(HTTPStatus.NOT_ACCEPTABLE, "an Accept header is required")
    # plain JSON is the same bytes under a wider name
    chosen = best_of(accept, (*ANSWER_TYPES, "application/json"))
    if chosen is None:
        raise RequestRefused(HTTPStatus.NOT_ACCEPTABLE, f"answers are {' or '.join(ANSWER_TYPES)}")
    return chosen if chosen in ANSWER_TYPES else JSON_TYPE


def _boundary(request: Request) -> bytes | None:
    """The boundary of the body; None where the body is one DICOM file (PS3.18 Table 10.5.4-1)."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("no content encoding is supported")
    try:
        media_type = parse_media_type(request.headers.get("content-type", ""))
    except MediaTypeMalformed as malformed:
        raise _unsupported(f"Content-Type: {malformed}") from malformed
    if media_type.name == DICOM_TYPE:
        return None
    # the root part is DICOM: unsaid it is assumed, as each part says it again
    root_type = media_type.parameters.get("type", DICOM_TYPE).strip().lower()
    if media_type.name != "multipart/related" or root_type != DICOM_TYPE:
        raise _unsupported(f'the body must be multipart/related; type="{DICOM_TYPE}"')
    try:
        return boundary_of(media_type)
    except MediaTypeMalformed as malformed:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, str(malformed)) from malformed


def _unsupported(reason: str) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        reason,
        headers={"Accept": f'multipart/related; type="{DICOM_TYPE}", {DICOM_TYPE}'},
    )


async def _refusal(_request: Request, refused: Any) -> Response:
    return PlainTextResponse(
        refused.reason + "\n", status_code=refused.status, headers=refused.headers
    )


async def _capabilities(request: Request) -> Response:
    """What the service offers, as WADL in JSON.

    Source: PS3.18 8.9, Annex H
    """
    store = {
        "@name": "POST",
        "request": {
            "representation": [
                {"@mediaType": f"multipart/related; type={DICOM_TYPE}"},
                {"@mediaType": DICOM_TYPE},
            ]
        },
        "response": [
            {
                "@status": "200,202,409",
                "representation": [{"@mediaType": media_type} for media_type in ANSWER_TYPES],
            },
            {"@status": "400,406,408,413,415,503"},
        ],
    }
    by_study = {"@path": "{study}", "method": [{**store, "@id": "StoreInstancesOfStudy"}]}
    studies = {
        "@path": "studies",
        "method": [{**store, "@id": "StoreInstances"}],
        "resource": [by_study],
    }
    base = f"{request.scope.get('root_path', '')}/"
    return JSONResponse(
        {"application": {"resources": {"@base": base, "resource": [studies]}}},
        headers={"Allow": ", ".join(_METHODS)},
    )


def store_instances_response(reply: Reply) -> Dataset:
    """The Store Instances Response Module; a sequence without items is left out.

    Retrieve URL is present and empty: what is stored cannot be retrieved from this service.

    Source: PS3.18 Table I.1-1
    """
    answer = _data_set(RetrieveURL="")
    identified = [failure for failure in reply.failed if failure.sop_instance_uid]
    others = [failure for failure in reply.failed if not failure.sop_instance_uid]
    if identified:
        answer.FailedSOPSequence = [
            _data_set(
                FailureReason=failure.dimse_status,
                ReferencedSOPClassUID=failure.sop_class_uid,
                ReferencedSOPInstanceUID=failure.sop_instance_uid,
            )
            for failure in identified
        ]
    if reply.stored:
        answer.ReferencedSOPSequence = [
            _data_set(
                ReferencedSOPClassUID=stored.sop_class_uid,
                ReferencedSOPInstanceUID=stored.sop_instance_uid,
                RetrieveURL="",
            )
            for stored in reply.stored
        ]
    if others:
        answer.OtherFailuresSequence = [
            _data_set(FailureReason=failure.dimse_status) for failure in others
        ]
    return answer


def _data_set(**values: str | int) -> Dataset:
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


def render(answer: Dataset, media_type: str) -> bytes:
    """A data set in one of ``ANSWER_TYPES``."""
    if media_type == JSON_TYPE:
        return json.dumps(answer.to_json_dict(), separators=(",", ":")).encode()
    root = ElementTree.Element("NativeDicomModel", {"xml:space": "preserve"})
    _add_attributes(root, answer)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_attributes(parent: ElementTree.Element, dataset: Dataset) -> None:
    for element in dataset:
        attribute = ElementTree.SubElement(
            parent,
            "DicomAttribute",
            {
                "tag": f"{element.tag.group:04X}{element.tag.element:04X}",
                "vr": element.VR,
                "keyword": keyword_for_tag(element.tag),
            },
        )
        if element.VR == "SQ":
            for number, item in enumerate(element.value, start=1):
                _add_attributes(
                    ElementTree.SubElement(attribute, "Item", {"number": str(number)}), item
                )
        elif not element.is_empty:
            ElementTree.SubElement(attribute, "Value", {"number": "1"}).text = str(element.value)
