"""Requests and answers against pynetdicom's codec, and requests that no honest peer makes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from node.domain.uids import IMPLEMENTATION_CLASS_UID
from node.receive.dimse_messages import Context, ProtocolFault
from node.receive.scp.negotiation import (
    HEAD_BYTES,
    ITEM_LIMIT,
    Identity,
    Refusal,
    accept,
    decode_head,
    decode_request,
    reject,
)
from tests.support import raw_dimse as raw

CT, MR = raw.CT_IMAGE_STORAGE, raw.MR_IMAGE_STORAGE
EXPLICIT, IMPLICIT = raw.EXPLICIT_VR_LITTLE_ENDIAN, raw.IMPLICIT_VR_LITTLE_ENDIAN
HEAD = struct.pack(">HH16s16s32x", 1, 0, b"SEGNODE".ljust(16), b"RAW".ljust(16))
APPLICATION = struct.pack(">BxH", 0x10, 21) + raw.APPLICATION_CONTEXT.encode()


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def context(context_id: int, abstract: str, *transfers: str) -> bytes:
    names = item(0x30, abstract.encode()) + b"".join(item(0x40, t.encode()) for t in transfers)
    return item(0x20, bytes([context_id, 0, 0, 0]) + names)


uids = st.from_regex(r"\A1\.2\.[1-9][0-9]{0,9}(\.[1-9][0-9]{0,9}){0,4}\Z")
titles = st.from_regex(r"\A[A-Z_][A-Z_ 0-9]{0,14}[A-Z_]\Z")


@settings(max_examples=150, deadline=None)
@given(
    called=titles,
    calling=titles,
    longest=st.integers(0, 2**32 - 1),
    offers=st.lists(
        st.tuples(uids, st.lists(uids, min_size=1, max_size=5)), min_size=1, max_size=128
    ),
    says_who=st.booleans(),
)
def test_what_pynetdicom_asks_is_understood(
    called: str,
    calling: str,
    longest: int,
    offers: list[tuple[str, list[str]]],
    says_who: bool,
) -> None:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = raw.APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposed = []
    for number, (abstract, transfers) in enumerate(offers):
        one = build_context(abstract, list(dict.fromkeys(transfers)))
        one.context_id = 2 * number + 1
        proposed.append(one)
    primitive.presentation_context_definition_list = proposed
    maximum, ours = MaximumLengthNotification(), ImplementationClassUIDNotification()
    maximum.maximum_length_received = longest
    ours.implementation_class_uid = "1.2.3.4"
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = offers[0][0], True, True
    primitive.user_information = [maximum, ours, role]
    if says_who:
        who = UserIdentityNegotiation()
        who.user_identity_type, who.primary_field = 2, b"name"
        who.secondary_field, who.positive_response_requested = b"secret", True
        primitive.user_information.append(who)
    encoded = A_ASSOCIATE_RQ(primitive).encode()

    request = decode_request(memoryview(encoded)[6:], "10.0.0.1")

    assert request.is_well_formed
    assert (request.calling_ae_title, request.called_ae_title) == (calling.strip(), called.strip())
    assert (request.peer_max_pdu_bytes, request.address) == (longest, "10.0.0.1")
    assert [
        (each.context_id, each.abstract_syntaxes, each.transfer_syntaxes)
        for each in request.proposals
    ] == [
        (one.context_id, (str(one.abstract_syntax),), tuple(map(str, one.transfer_syntax)))
        for one in proposed
    ]


@pytest.mark.parametrize(
    "items",
    [
        [],
        [b""],
        [b"\2\0\0\4nam"],
        [b"\2\0\0\4name\0"],
        [b"\2\0\0\4name\0\5pass"],
        [b"\2\0\0\4name\0\4passx"],
        [b"\2\0\xff\xffname\0\4pass"],
        [b"\1\0\0\4name\0\0"] * 2,
    ],
    ids=["none", "empty", "cut", "no end", "too short", "more", "too long", "twice"],
)
def test_a_user_identity_that_is_not_well_said_is_nobodys(items: list[bytes]) -> None:
    information = b"".join(item(0x58, each) for each in items)
    body = HEAD + APPLICATION + context(1, CT, IMPLICIT) + item(0x50, information)

    request = decode_request(memoryview(body), "")

    assert request.identity is None
    assert request.identities == tuple(items)


def test_a_user_identity_is_read_as_it_stands() -> None:
    information = item(0x58, b"\2\1\0\4name\0\6secret")
    body = HEAD + APPLICATION + context(1, CT, IMPLICIT) + item(0x50, information)

    request = decode_request(memoryview(body), "")

    assert request.identity == Identity(2, True, b"name", b"secret")
    assert "secret" not in repr(request)


def test_what_we_answer_is_understood_by_pynetdicom() -> None:
    body = HEAD + APPLICATION
    body += context(1, CT, IMPLICIT, EXPLICIT) + context(3, MR, "1.2.3") + context(9, "1.9", "1.8")
    request = decode_request(memoryview(body), "")

    answer = accept(request, {CT: (EXPLICIT, IMPLICIT), MR: (EXPLICIT,)}, 131072)

    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer.pdu)
    assert pdu.encode() == answer.pdu
    told = pdu.to_primitive()
    results = told.presentation_context_definition_results_list
    assert [(one.context_id, one.result) for one in results] == [(1, 0), (3, 4), (9, 3)]
    assert results[0].transfer_syntax == [EXPLICIT]
    assert told.application_context_name == raw.APPLICATION_CONTEXT
    assert told.maximum_length_received == 131072
    assert told.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert answer.contexts == {1: Context(CT, EXPLICIT)}
    assert answer.pdu[10:74] == body[4:HEAD_BYTES]


def test_a_rejection_is_understood_by_pynetdicom() -> None:
    pdu = A_ASSOCIATE_RJ()
    pdu.decode(reject(Refusal(1, 2, 2)))

    assert (pdu.result, pdu.source, pdu.reason_diagnostic) == (1, 2, 2)


@pytest.mark.parametrize("title", [b"PACS", b" PACS", b"PACS\0", b"PACS \0 \0", b"\0PACS"])
def test_titles_lose_blanks_and_nuls(title: bytes) -> None:
    body = struct.pack(">HH16s16s32x", 1, 0, title.ljust(16), title.ljust(16, b"\0"))

    head = decode_head(memoryview(body))

    assert (head.called_ae_title, head.calling_ae_title) == ("PACS", "PACS")


@pytest.mark.parametrize(
    ("version", "is_ours"), [(1, True), (3, True), (0xFFFF, True), (0, False), (2, False)]
)
def test_only_bit_0_of_the_protocol_version_counts(version: int, is_ours: bool) -> None:
    body = struct.pack(">H", version) + HEAD[2:]

    assert decode_head(memoryview(body)).is_version_1 is is_ours


HOSTILE = {
    "nothing": b"",
    "cut in its titles": HEAD[:40],
    "no application context": HEAD + context(1, CT, EXPLICIT),
    "an item header that is cut": HEAD + APPLICATION + b"\x20\0",
    "an item beyond the end": HEAD + APPLICATION + struct.pack(">BxH", 0x20, 500) + b"\1\0\0\0",
    "a sub-item beyond its item": HEAD
    + APPLICATION
    + item(0x20, b"\1\0\0\0" + struct.pack(">BxH", 0x30, 99) + b"1.2"),
    "an even context ID": HEAD + APPLICATION + context(2, CT, EXPLICIT),
    "context ID 0": HEAD + APPLICATION + context(0, CT, EXPLICIT),
    "a context ID twice": HEAD + APPLICATION + context(1, CT, EXPLICIT) + context(1, MR, EXPLICIT),
    "a context without an ID": HEAD + APPLICATION + item(0x20, b""),
    "a maximum length of three bytes": HEAD + APPLICATION + item(0x50, item(0x51, b"\0\0\1")),
    "items without end": HEAD + APPLICATION + item(0x77, b"") * ITEM_LIMIT,
    "sub-items without end": HEAD + APPLICATION + item(0x50, item(0x58, b"") * (ITEM_LIMIT)),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_no_request_is_a_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        decode_request(memoryview(body), "")


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_noise_is_a_request_or_a_fault(noise: bytes, after_a_head: bool) -> None:
    body = HEAD + APPLICATION + noise if after_a_head else noise
    try:
        request = decode_request(memoryview(body), "")
    except ProtocolFault:
        return
    if request.is_well_formed:
        accept(request, {CT: (EXPLICIT,)}, 16384)
