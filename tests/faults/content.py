"""Data sets that nobody should send: broken ones, ones that lie, and ones that are far too large.

F15 to F29, F35, and what the walk was bounded against. Everything is made by code, a piece at a time.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count

import numpy as np

from tests.faults.case import (
    DEFLATED_CONTEXT,
    IMPLICIT_CONTEXT,
    JPEG_CONTEXT,
    REFUSED,
    Case,
    Expected,
    Target,
)
from tests.support import raw_dimse as raw

UID = "1.2.826.0.1.3680043.8.498.77"
# who must never be read in a log
PATIENT_ID = "PID-4711-77"
STUDY, SERIES = "1.2.826.0.1.3680043.8.498.78", "1.2.826.0.1.3680043.8.498.79"
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_PIECE_BYTES = 1 << 20
_UNDEFINED = 0xFFFFFFFF


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in explicit VR little endian, padded."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in _LONG:
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def values(uid: str = UID, **changed: bytes | None) -> dict[int, tuple[bytes, bytes]]:
    """Tag -> VR and value of a small CT; a change to None leaves the element out."""
    all_of_it: dict[str, tuple[int, bytes, bytes]] = {
        "sop_class": (0x00080016, b"UI", raw.CT_IMAGE_STORAGE.encode()),
        "sop_instance": (0x00080018, b"UI", uid.encode()),
        "modality": (0x00080060, b"CS", b"CT"),
        "patient_id": (0x00100020, b"LO", PATIENT_ID.encode()),
        "study": (0x0020000D, b"UI", STUDY.encode()),
        "series": (0x0020000E, b"UI", (SERIES if uid == UID else uid.rpartition(".")[0]).encode()),
        "samples": (0x00280002, b"US", raw.us(1)),
        "photometric": (0x00280004, b"CS", b"MONOCHROME2"),
        "rows": (0x00280010, b"US", raw.us(8)),
        "columns": (0x00280011, b"US", raw.us(8)),
        "bits_allocated": (0x00280100, b"US", raw.us(16)),
        "bits_stored": (0x00280101, b"US", raw.us(16)),
        "high_bit": (0x00280102, b"US", raw.us(15)),
        "representation": (0x00280103, b"US", raw.us(0)),
        "pixels": (0x7FE00010, b"OW", bytes(128)),
    }
    found = {}
    for name, (tag, vr, value) in all_of_it.items():
        new = changed.get(name, value)
        if new is not None:
            found[tag] = vr, new
    return found


def ct(uid: str = UID, **changed: bytes | None) -> bytes:
    """A small CT in explicit VR little endian; a change to None leaves the element out."""
    return b"".join(element(tag, *rest) for tag, rest in values(uid, **changed).items())


def file_head(uid: str) -> bytes:
    """What stands in front of it in a file. PS3.10 7.1"""
    group = b"".join(
        (
            element(0x00020001, b"OB", b"\x00\x01"),
            element(0x00020002, b"UI", raw.CT_IMAGE_STORAGE.encode()),
            element(0x00020003, b"UI", uid.encode()),
            element(0x00020010, b"UI", raw.EXPLICIT_VR_LITTLE_ENDIAN.encode()),
        )
    )
    length = element(0x00020000, b"UL", struct.pack("<L", len(group)))
    return bytes(128) + b"DICM" + length + group


def implicit_ct(uid: str = UID, **changed: bytes | None) -> bytes:
    """The same in implicit VR little endian."""
    return b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) + len(value) % 2)
        + value
        + b"\0" * (len(value) % 2)
        for tag, (_, value) in values(uid, **changed).items()
    )


def nested(depth: int) -> bytes:
    """A CT behind sequences of undefined length, one inside the other."""
    head = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, _UNDEFINED)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED)
    ends = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    patient_id = element(0x00100020, b"LO", PATIENT_ID.encode())
    before, after = ct(modality=None).split(patient_id)
    return before + (head + item) * depth + ends * depth + patient_id + after


def inserted(added: bytes, data: bytes | None = None) -> bytes:
    """A CT with bytes more, in front of its Patient ID."""
    data = ct() if data is None else data
    place = data.index(struct.pack("<HH", 0x0010, 0x0020))
    return data[:place] + added + data[place:]


_BIG = bytes(range(256)) * 20
_SEQUENCE = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, _UNDEFINED)
CONTENT: Mapping[str, bytes] = {
    "F15: random bytes": hashlib.shake_128(b"noise").digest(5000),
    "F16: element cut in its value": ct()[:-40],
    "F16: element cut in its header": ct()[: ct().index(b"OW") - 3],
    "F17: implicit bytes on an explicit context": struct.pack("<HHL", 8, 0x16, 26) + _BIG[:26],
    "F18: big-endian bytes": struct.pack(">HH", 8, 0x16)
    + b"UI"
    + struct.pack(">H", 26)
    + _BIG[:26],
    "F22: another instance than announced": ct(uid="1.2.3.4.5.6"),
    "F21: another class than announced": ct(sop_class=raw.MR_IMAGE_STORAGE.encode()),
    "F25: no Study Instance UID": ct(study=None),
    "F25: empty Study Instance UID": ct(study=b""),
    "F25: Series Instance UID is a path": ct(series=b"../../../etc/x"),
    "F25: Study Instance UID of 4 000 digits": ct(study=b"1." * 2000),
    "F26: sequences 2 000 deep": nested(2000),
    "F26: sequences 10 000 deep": nested(10_000),
    "F26: sequences 100 000 deep": nested(100_000),
    "F29: no rows": ct(rows=raw.us(0)),
    "F29: 65535 x 65535": ct(rows=raw.us(65535), columns=raw.us(65535)),
    "F29: 33 bits": ct(bits_allocated=raw.us(33)),
    "F29: pixels longer than declared": ct(pixels=bytes(1280)),
    "F35: OW of length 0xFFFFFFF0": ct()[: -128 - 4] + struct.pack("<L", 0xFFFFFFF0) + bytes(128),
    "F35: an unknown value representation": inserted(
        struct.pack("<HH", 0x0008, 0x1030) + b"??\x02\0ab"
    ),
    "F35: a tag twice with two values": inserted(element(0x00080060, b"CS", b"MR")),
    "F35: a sequence without its delimiter": inserted(_SEQUENCE),
    "F35: an item without its delimiter": inserted(
        _SEQUENCE + struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED)
    ),
    "F35: undefined length of a text": inserted(
        struct.pack("<HH2sHL", 0x0008, 0x4000, b"UT", 0, _UNDEFINED)
    ),
    "page: trailing garbage": ct() + b"\x01garbage" * 20,
    "page: an empty data set": b"",
}
"""Data sets in explicit VR little endian that are refused, each with a reason."""

HOSTILE_UIDS: tuple[bytes, ...] = (
    b"../../../../tmp/pwn",
    b"/etc/passwd",
    b"..\\..\\x",
    b"1.2\x00.3",
    b"1" * 65,
    b"1..2",
    b"1.2.",
    b"1..02",
    "1.2.é".encode(),
)


# --- what is far too large ------------------------------------------------------------------------


def zeros(size_bytes: int) -> Iterator[bytes]:
    """So many zeros."""
    while size_bytes > 0:
        yield bytes(min(size_bytes, _PIECE_BYTES))
        size_bytes -= _PIECE_BYTES


def long_value(tag: int, size_bytes: int, uid: str) -> Iterator[bytes]:
    """A CT in implicit VR of which one value is as long as it says."""
    for each, (_, value) in sorted({**values(uid), tag: (b"", b"")}.items()):
        if each == tag:
            yield struct.pack("<HHL", tag >> 16, tag & 0xFFFF, size_bytes)
            yield from zeros(size_bytes)
        else:
            padded = value + b"\0" * (len(value) % 2)
            yield struct.pack("<HHL", each >> 16, each & 0xFFFF, len(padded)) + padded


def long_value_in_item(size_bytes: int, uid: str) -> Iterator[bytes]:
    """A CT whose sequence of undefined length holds a text of this length in implicit VR."""
    data = implicit_ct(uid)
    place = data.index(struct.pack("<HH", 0x0010, 0x0020))
    yield data[:place] + struct.pack(
        "<HHLHHL", 0x0008, 0x1115, _UNDEFINED, 0xFFFE, 0xE000, _UNDEFINED
    )
    yield struct.pack("<HHL", 0x0010, 0x0020, size_bytes)
    yield from zeros(size_bytes)
    yield struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    yield data[place:]


def many_elements(number: int, uid: str) -> Iterator[bytes]:
    """A CT with so many empty private elements, in implicit VR."""
    data = implicit_ct(uid)
    place = data.index(struct.pack("<HH", 0x0020, 0x000D))
    yield data[:place]
    for group in count(0x0011, 2):  # below them stands the patient, behind them the study
        if number <= 0 or group >= 0x0020:
            break
        size = min(number, 0xF000)
        yield _empty(group, size)
        number -= size
    pixels = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    yield data[place:pixels]
    for group in count(0x0029, 2):
        if number <= 0:
            break
        size = min(number, 0xF000)
        yield _empty(group, size)
        number -= size
    yield data[pixels:]


def _empty(group: int, number: int) -> bytes:
    layout = np.dtype([("group", "<u2"), ("element", "<u2"), ("length", "<u4")])
    made = np.zeros(number, layout)
    made["group"], made["element"] = group, np.arange(0x1000, 0x1000 + number)
    return made.tobytes()


def many_long_values(number: int, size_bytes: int, uid: str) -> Iterator[bytes]:
    """A CT with so many private values, each of which is short enough to be kept."""
    data = implicit_ct(uid)
    place = data.index(struct.pack("<HH", 0x0020, 0x000D))
    yield data[:place]
    for at in range(number):
        yield struct.pack("<HHL", 0x0011, 0x1000 + at, size_bytes) + bytes(size_bytes)
    yield data[place:]


def elements_in_items(number: int, uid: str) -> Iterator[bytes]:
    """A CT with so many empty elements in an item of a sequence of undefined length."""
    data = implicit_ct(uid)
    place = data.index(struct.pack("<HH", 0x0010, 0x0020))
    yield data[:place] + struct.pack(
        "<HHLHHL", 0x0008, 0x1115, _UNDEFINED, 0xFFFE, 0xE000, _UNDEFINED
    )
    for group in count(0x0029, 2):
        if number <= 0:
            break
        yield _empty(group, min(number, 0xF000))
        number -= 0xF000
    # long enough that it is not read whole before it is looked at
    yield struct.pack("<HHL", 0x7FE1, 0x1001, 8 << 20) + bytes(8 << 20)
    yield struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    yield data[place:]


def deflated_frames(frames: int, uid: str) -> Iterator[bytes]:
    """A sound CT of 1024 x 1024 and so many frames, deflated to a sixtieth."""
    head = ct(uid, rows=raw.us(1024), columns=raw.us(1024))[: -12 - 128]
    rows = head.index(struct.pack("<HH", 0x0028, 0x0010))
    head = head[:rows] + element(0x00280008, b"IS", str(frames).encode()) + head[rows:]
    head += struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, frames << 21)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield squeezer.compress(head) + squeezer.flush(zlib.Z_FULL_FLUSH)
    noise = hashlib.shake_128(b"noise").digest(1 << 14)
    block = squeezer.compress(noise + bytes(_PIECE_BYTES - len(noise)))
    block += squeezer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(2 * frames):
        yield block
    yield squeezer.flush()


def bomb(size_bytes: int, uid: str = UID) -> Iterator[bytes]:
    """A CT in deflate whose pixels inflate to so many zeros."""
    said = min(size_bytes, _UNDEFINED - 1)
    head = ct(uid)[: -12 - 128] + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, said)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield squeezer.compress(head) + squeezer.flush(zlib.Z_FULL_FLUSH)
    # between two full flushes a block stands alone, and can be sent again and again
    block = squeezer.compress(bytes(_PIECE_BYTES)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(size_bytes // _PIECE_BYTES):
        yield block
    yield squeezer.flush()


# --- cases ----------------------------------------------------------------------------------------

_numbers = count(1)


def _fresh() -> str:
    return f"{UID}.{next(_numbers)}"


def _stored(data: bytes, target: Target, *, uid: str | bytes = UID, context_id: int = 1) -> str:
    with target.association() as client:
        status = raw.status(client.store(data, uid, context_id=context_id))
        return f"status {status:04X}, echo {client.echo():04X}"


def _fresh_stored(data: bytes, target: Target) -> str:
    """One that is taken, as an instance that nobody has seen."""
    uid = _fresh()
    own = element(0x00080018, b"UI", UID.encode()), element(0x00080018, b"UI", uid.encode())
    return _stored(data.replace(*own), target, uid=uid)


def _streamed(
    made: Callable[[str], Iterable[bytes]], target: Target, *, context_id: int, times: int = 1
) -> str:
    with target.association() as client:
        words = []
        series = _fresh()
        for number in range(times):
            uid = f"{series}.{number}"
            response = client.store_pieces(made(uid), uid, context_id=context_id)
            words.append(f"status {raw.status(response):04X}")
        return f"{', '.join(dict.fromkeys(words))}, echo {client.echo():04X}"


_SUCCESS = Expected(sentence="taken", pattern="status 0000, echo 0000")
_REFUSED_OR_FULL = Expected(
    sentence="refused at the cap", pattern="status (A700|C[0-9A-F]{3}), echo 0000"
)
_EITHER = Expected(
    sentence="refused, or taken within bounds", pattern="status (0000|C[0-9A-F]{3}), echo 0000"
)


def cases() -> Iterator[Case]:
    """All of this module, in the order in which they are run."""
    for name, data in CONTENT.items():
        identity, _, words = name.partition(": ")
        yield Case(id=identity, name=words, attack=partial(_stored, data), expected=REFUSED)
    for uid in HOSTILE_UIDS:
        yield Case(
            id="F24",
            name=f"instance UID {ascii(uid.decode('latin-1'))[:30]}",
            attack=partial(_stored, ct().replace(UID.encode(), uid), uid=uid),
            expected=REFUSED,
        )
    yield Case(
        id="F26",
        name="sequences 100 deep",
        attack=partial(_fresh_stored, nested(100)),
        expected=_SUCCESS,
    )
    yield Case(
        id="F28",
        name="native pixels in JPEG",
        attack=partial(_stored, ct(), context_id=JPEG_CONTEXT),
        expected=REFUSED,
    )
    yield Case(
        id="page",
        name="no deflate stream in deflate",
        attack=partial(_stored, ct(), context_id=DEFLATED_CONTEXT),
        expected=REFUSED,
    )
    implicit = partial(_streamed, context_id=IMPLICIT_CONTEXT)
    deflated = partial(_streamed, context_id=DEFLATED_CONTEXT)
    yield Case(
        id="F27",
        name="a deflate bomb of 400 MB",
        attack=partial(deflated, partial(bomb, 400 << 20)),
        expected=_REFUSED_OR_FULL,
    )
    yield Case(
        id="F27",
        name="a deflate bomb of 36 GB",
        attack=partial(deflated, partial(bomb, 36 << 30)),
        expected=_REFUSED_OR_FULL,
        is_long=True,
        beside=True,
    )
    monsters: Mapping[str, tuple[Callable[[str], Iterable[bytes]], int, str]] = {
        "4 million elements": (partial(many_elements, 4_000_000), 1, "too many elements"),
        "five images of 3.9 million empty elements": (
            partial(many_elements, 3_900_000),
            5,
            "too many elements",
        ),
        "a Patient ID of 150 MB": (
            partial(long_value, 0x00100020, 150_000_000),
            1,
            "a value of 150000000 bytes",
        ),
        "a Patient ID of 600 MB": (
            partial(long_value, 0x00100020, 600_000_000),
            1,
            "a value of 600000000 bytes",
        ),
    }
    for name, (made, times, reason) in monsters.items():
        yield Case(
            id="page",
            name=name,
            attack=partial(implicit, made, times=times),
            expected=REFUSED,
            is_long=True,
            beside=True,
            kept_aside=reason,
        )
    too_long = "a header is longer than 32 MB"
    in_bounds: Mapping[str, tuple[Callable[[str], Iterable[bytes]], int, str]] = {
        "a Patient ID of 600 MB in an item": (
            partial(long_value_in_item, 600_000_000),
            1,
            too_long,
        ),
        "five images of 590 000 empty elements": (
            partial(many_elements, 590_000),
            5,
            "too many elements",
        ),
        "five images of 590 000 elements in items": (partial(elements_in_items, 590_000), 5, ""),
        "9 000 private values of 60 kB": (partial(many_long_values, 9_000, 60_000), 1, too_long),
        "a private value of 600 MB": (partial(long_value, 0x00111001, 600_000_000), 1, ""),
    }
    for name, (made, times, reason) in in_bounds.items():
        yield Case(
            id="page",
            name=name,
            attack=partial(implicit, made, times=times),
            expected=_EITHER,
            is_long=True,
            beside=True,
            kept_aside=reason,
        )
    yield Case(
        id="page",
        name="a sound image of 630 MB, deflated to 10 MB",
        attack=partial(deflated, partial(deflated_frames, 300)),
        expected=_SUCCESS,
        is_long=True,
        beside=True,
    )
