"""Images that the Standard does not allow, as the field sends them; each made from a sound one.

A kind changes the encoded data set, never what it shows: where the node takes one, header and
pixels are those of the image it was made from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import pack

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.domain.received import Note
from node.receive.walk import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, PIXEL_DATA, walk
from tests.support.instances import data_set_bytes

ENCODINGS = {
    ExplicitVRLittleEndian: EXPLICIT_LITTLE,
    ImplicitVRLittleEndian: IMPLICIT_LITTLE,
    ExplicitVRBigEndian: EXPLICIT_BIG,
}
_LONG = {b"OB", b"OW", b"SQ", b"UN", b"UT"}
_UNDEFINED = 0xFFFFFFFF

Change = Callable[[bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """One kind.

    Args:
        change: Of the encoded data set.
        notes: What the node notes where it takes it.
        refused: Words of the reason where it does not; and ``why``, where other readers take it.
        readers: Those that read it as it was meant: "pydicom", "gdcm", "dcmtk".
    """

    name: str
    change: Change
    syntax: UID = ExplicitVRLittleEndian
    notes: tuple[Note, ...] = ()
    refused: str = ""
    why: str = ""
    readers: str = "pydicom gdcm dcmtk"

    def data_set(self, image: Dataset) -> bytes:
        """The malformed data set of an image."""
        return self.change(
            data_set_bytes(
                image,
                is_implicit=self.syntax == ImplicitVRLittleEndian,
                is_little_endian=self.syntax != ExplicitVRBigEndian,
            )
        )

    def file(self, image: Dataset) -> bytes:
        """The same as a Part 10 file."""
        return bytes(128) + b"DICM" + file_meta(image, self.syntax) + self.data_set(image)


def explicit(tag: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    """An element in explicit VR."""
    head = pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in _LONG:
        return head + pack(f"{order}HI", 0, len(value)) + value
    return head + pack(f"{order}H", len(value)) + value


def implicit(tag: int, value: bytes) -> bytes:
    """An element in implicit VR little endian."""
    return pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(content: bytes, order: str = "<") -> bytes:
    """An item of known length."""
    return pack(f"{order}HHI", 0xFFFE, 0xE000, len(content)) + content


def delimiter(element: int, length: int = 0, order: str = "<") -> bytes:
    """An item or sequence delimiter."""
    return pack(f"{order}HHI", 0xFFFE, element, length)


def file_meta(image: Dataset, syntax: str) -> bytes:
    """Group 0002 with its length."""

    def uid(tag: int, text: str) -> bytes:
        return explicit(tag, b"UI", text.encode() + b"\0" * (len(text) % 2))

    body = (
        explicit(0x00020001, b"OB", b"\0\1")
        + uid(0x00020002, str(image.SOPClassUID))
        + uid(0x00020003, str(image.SOPInstanceUID))
        + uid(0x00020010, syntax)
    )
    return explicit(0x00020000, b"UL", pack("<I", len(body))) + body


def nested_file(image: Dataset, depth: int, *, has_meta: bool = True) -> bytes:
    """An image whose first element is a sequence in a sequence, and so on."""
    opening = pack("<HH2sHI", 0x0008, 0x0006, b"SQ", 0, _UNDEFINED) + pack(
        "<HHI", 0xFFFE, 0xE000, _UNDEFINED
    )
    nested = opening * depth + (delimiter(0xE00D) + delimiter(0xE0DD)) * depth
    head = bytes(128) + b"DICM" + file_meta(image, ExplicitVRLittleEndian) if has_meta else b""
    return head + nested + data_set_bytes(image)


def before(added: bytes) -> Change:
    """In front of the data set."""
    return lambda data: added + data


def behind(added: bytes) -> Change:
    """Behind the data set."""
    return lambda data: data + added


def at(tag: int, added: bytes, syntax: UID = ExplicitVRLittleEndian) -> Change:
    """Where an element of that tag belongs, behind one that is there."""

    def change(data: bytes) -> bytes:
        for found, element in walk(data, ENCODINGS[syntax]).elements.items():
            if found > tag:
                start = element.offset - (12 if element.vr in _LONG else 8)
                return data[:start] + added + data[start:]
        return data + added

    return change


def moved_behind_pixels(tag: int) -> Change:
    """An element of the header behind the pixel data."""

    def change(data: bytes) -> bytes:
        element = walk(data, EXPLICIT_LITTLE).elements[tag]
        end = element.offset + element.length
        return data[: element.offset - 8] + data[end:] + data[element.offset - 8 : end]

    return change


def repeated(tag: int, syntax: UID = ExplicitVRLittleEndian) -> Change:
    """An element once more behind itself."""

    def change(data: bytes) -> bytes:
        element = walk(data, ENCODINGS[syntax]).elements[tag]
        start = element.offset - (12 if element.vr in _LONG else 8)
        end = element.offset + element.length
        return data[:end] + data[start:end] + data[end:]

    return change


def _dicomdir(order: str = "<") -> bytes:
    return explicit(0x00041430, b"CS", b"IMAGE ", order) + explicit(
        0x00041500, b"CS", b"A\\B ", order
    )


_IMPLICIT_NAME = implicit(0x00100010, b"ABCD")
_EXPLICIT_NAME = explicit(0x00100010, b"PN", b"ABCD")
_BIG_NAME = explicit(0x00100010, b"PN", b"ABCD", ">")
_CREATOR = explicit(0x00090010, b"LO", b"PHANTOM ")
_CREATOR_BIG = explicit(0x00090010, b"LO", b"PHANTOM ", ">")
_UN = pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, _UNDEFINED)
_UN_BIG = pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, _UNDEFINED)
_REFERENCES = 0x00081115
_OPEN_ITEM = pack("<HHI", 0xFFFE, 0xE000, _UNDEFINED) + _IMPLICIT_NAME + delimiter(0xE00D)
# GDCM wants less than a tag or a whole element behind the last one, dcmtk whole elements
_READERS_OF_TAILS = {1: "pydicom gdcm", 2: "pydicom gdcm", 4: "pydicom", 13: "pydicom"}
_READERS_DIFFER = "readers take different ones of the two"
_HEADER_ONLY = "what reads headers stops before the pixel data"

E, I, B = ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian  # noqa: E741

TAKEN = (
    *(
        Malformed(
            name=f"{name} behind, {short}",
            syntax=syntax,
            change=behind(tail),
            notes=(Note.BYTES_BEHIND,),
            readers=_READERS_OF_TAILS.get(len(tail), "pydicom gdcm dcmtk"),
        )
        for name, tail in {
            "8 zeros": bytes(8),
            "2 zeros": bytes(2),
            "512 zeros": bytes(512),
            "13 zeros": bytes(13),
            "one NUL": b"\0",
            "CR LF": b"\r\n",
            "two line ends": b"\r\n\r\n",
        }.items()
        for short, syntax in (("explicit", E), ("implicit", I))
    ),
    Malformed(
        name="16 zeros behind, big endian",
        syntax=B,
        change=behind(bytes(16)),
        notes=(Note.BYTES_BEHIND,),
        readers="pydicom dcmtk",
    ),
    Malformed(
        name="an item delimiter behind",
        change=behind(delimiter(0xE00D)),
        notes=(Note.STRAY_DELIMITER,),
    ),
    Malformed(name="group 0004", change=before(_dicomdir()), notes=(Note.LOW_GROUP,)),
    Malformed(
        name="group 0004, implicit",
        syntax=I,
        change=before(implicit(0x00041500, b"A\\B ")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0004, big endian",
        syntax=B,
        change=before(_dicomdir(">")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0004 in the middle",
        change=at(0x00100010, _dicomdir()),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0004 behind the pixels", change=behind(_dicomdir()), notes=(Note.LOW_GROUP,)
    ),
    Malformed(
        name="group 0004 in an item",
        change=at(_REFERENCES, explicit(_REFERENCES, b"SQ", item(_dicomdir() + _EXPLICIT_NAME))),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0000",
        change=before(explicit(0x00000002, b"UI", b"1.2\0")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="a command set, implicit",
        syntax=I,
        change=before(implicit(0, pack("<I", 10)) + implicit(0x00000100, b"\1\0")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0006",
        change=before(explicit(0x00060010, b"CS", b"AB")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0002 in the middle",
        change=at(0x00100010, explicit(0x00020010, b"UI", E.encode() + b"\0")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="group 0002, implicit",
        syntax=I,
        change=before(implicit(0x00020010, I.encode() + b"\0")),
        notes=(Note.LOW_GROUP,),
    ),
    Malformed(
        name="tags out of order",
        change=at(0x00200032, explicit(0x00102160, b"SH", b"056Y")),
        notes=(Note.OUT_OF_ORDER,),
    ),
    Malformed(
        name="tags out of order, implicit",
        syntax=I,
        change=at(0x00200032, implicit(0x00102160, b"056Y"), I),
        notes=(Note.OUT_OF_ORDER,),
    ),
    Malformed(
        name="tags out of order in an item",
        change=at(
            _REFERENCES,
            explicit(
                _REFERENCES, b"SQ", item(explicit(0x00102160, b"SH", b"056Y") + _EXPLICIT_NAME)
            ),
        ),
        notes=(Note.OUT_OF_ORDER,),
    ),
    Malformed(
        name="an element twice with one value", change=repeated(0x00100010), notes=(Note.REPEATED,)
    ),
    Malformed(name="pixel data twice", change=repeated(PIXEL_DATA), notes=(Note.REPEATED,)),
    Malformed(
        name="no value representation",
        change=at(0x00102160, implicit(0x00102160, b"056Y")),
        notes=(Note.NO_VR,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="UN of undefined length, explicit inside",
        change=at(0x00090000, _CREATOR + _UN + item(_EXPLICIT_NAME) + delimiter(0xE0DD)),
        notes=(Note.OTHER_ENCODING,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="UN of undefined length in big endian",
        syntax=B,
        change=at(0x00090000, _CREATOR_BIG + _UN_BIG + item(_IMPLICIT_NAME) + delimiter(0xE0DD), B),
        notes=(Note.UN_IN_BIG_ENDIAN,),
        readers="dcmtk",
    ),
    Malformed(
        name="UN and item of undefined length in big endian",
        syntax=B,
        change=at(0x00090000, _CREATOR_BIG + _UN_BIG + _OPEN_ITEM + delimiter(0xE0DD), B),
        notes=(Note.UN_IN_BIG_ENDIAN,),
        readers="dcmtk",
    ),
    Malformed(
        name="UN of undefined length in big endian, big endian inside",
        syntax=B,
        change=at(
            0x00090000,
            _CREATOR_BIG + _UN_BIG + item(_BIG_NAME, ">") + delimiter(0xE0DD, order=">"),
            B,
        ),
        notes=(Note.OTHER_ENCODING,),
        readers="pydicom",
    ),
    Malformed(
        name="text in a sequence",
        syntax=I,
        change=at(_REFERENCES, implicit(_REFERENCES, b"some text here"), I),
        notes=(Note.TEXT_FOR_SEQUENCE,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="short text in a sequence",
        syntax=I,
        change=at(_REFERENCES, implicit(_REFERENCES, b"ab"), I),
        notes=(Note.TEXT_FOR_SEQUENCE,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="text in a sequence of the study",
        syntax=I,
        change=at(0x00081032, implicit(0x00081032, b"CT THORAX "), I),
        notes=(Note.TEXT_FOR_SEQUENCE,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="text and group 0004 in an item of the study",
        syntax=I,
        change=at(
            0x00081110,
            implicit(
                0x00081110,
                item(
                    implicit(0x00041500, b"A\\B ")
                    + implicit(0x00081155, b"1.2.3\0")
                    + implicit(0x0040A170, b"FOLLOW UP ")
                ),
            ),
            I,
        ),
        notes=(Note.LOW_GROUP, Note.TEXT_FOR_SEQUENCE),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="explicit items in an implicit sequence",
        syntax=I,
        change=at(_REFERENCES, implicit(_REFERENCES, item(_EXPLICIT_NAME)), I),
        notes=(Note.OTHER_ENCODING,),
        readers="pydicom gdcm",
    ),
    Malformed(
        name="a delimiter with a length",
        change=at(
            _REFERENCES,
            pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, _UNDEFINED)
            + item(_EXPLICIT_NAME)
            + delimiter(0xE0DD, 4),
        ),
        notes=(Note.STRAY_DELIMITER,),
    ),
    Malformed(
        name="a sequence delimiter in a sequence of known length",
        change=at(
            _REFERENCES,
            explicit(_REFERENCES, b"SQ", item(_EXPLICIT_NAME) + delimiter(0xE0DD)),
        ),
        notes=(Note.STRAY_DELIMITER,),
    ),
    Malformed(
        name="an item delimiter in an item of known length",
        change=at(
            _REFERENCES,
            explicit(_REFERENCES, b"SQ", item(_EXPLICIT_NAME + delimiter(0xE00D))),
        ),
        notes=(Note.STRAY_DELIMITER,),
        readers="pydicom dcmtk",
    ),
)

# file meta twice: what the first group length excludes is no part of it
SECOND_META = Malformed(
    name="file meta twice",
    change=before(explicit(0x00020000, b"UL", pack("<I", 28)) + explicit(
        0x00020010, b"UI", E.encode() + b"\0"
    )),
    notes=(Note.FILE_META_REPEATED,),
)  # fmt: skip
SECOND_META_OTHER_SYNTAX = Malformed(
    name="file meta twice, the second one of JPEG",
    change=before(
        explicit(0x00020000, b"UL", pack("<I", 30))
        + explicit(0x00020010, b"UI", b"1.2.840.10008.1.2.4.70")
    ),
    notes=(Note.FILE_META_REPEATED,),
)

REFUSED = (
    Malformed(
        name="a name twice with other values",
        change=at(0x00100010, explicit(0x00100010, b"PN", b"Other^Name  ")),
        refused="an element comes twice with different values",
        why=_READERS_DIFFER,
    ),
    Malformed(
        name="Rows twice with other values",
        change=at(0x00280010, explicit(0x00280010, b"US", pack("<H", 8))),
        refused="an element comes twice with different values",
        why=_READERS_DIFFER,
    ),
    Malformed(
        name="a position twice with other values",
        change=at(0x00200032, explicit(0x00200032, b"DS", b"0\\0\\99")),
        refused="an element comes twice with different values",
        why=_READERS_DIFFER,
    ),
    Malformed(
        name="a name twice with other values in an item",
        change=at(
            _REFERENCES,
            explicit(
                _REFERENCES,
                b"SQ",
                item(_EXPLICIT_NAME + explicit(0x00100010, b"PN", b"EFGH")),
            ),
        ),
        refused="an element comes twice with different values",
        why=_READERS_DIFFER,
    ),
    Malformed(
        name="pixel data twice with other pixels",
        change=behind(explicit(PIXEL_DATA, b"OW", bytes(512))),
        refused="an element comes twice with different values",
        why=_READERS_DIFFER,
    ),
    Malformed(
        name="Rows behind the pixel data",
        change=moved_behind_pixels(0x00280010),
        refused="an attribute behind the pixel data",
        why=_HEADER_ONLY,
    ),
    Malformed(
        name="Rescale Slope behind the pixel data",
        change=moved_behind_pixels(0x00281053),
        refused="an attribute behind the pixel data",
        why=_HEADER_ONLY,
    ),
    Malformed(
        name="an empty element of zeros in front",
        syntax=I,
        change=before(bytes(8)),
        refused="zeros between elements",
        why="zeros where elements should be are a lost block of a disk",
    ),
    Malformed(
        name="group 0000, big endian",
        syntax=B,
        change=before(explicit(0x00000002, b"UI", b"1.2\0", ">")),
        refused="a command set in big endian",
        why="pydicom, which reads what is kept, takes it for little endian",
    ),
    Malformed(
        name="no value representation at the first element",
        change=before(implicit(0x00080005, b"ISO_IR 100")),
        refused="unknown value representation",
    ),
    Malformed(
        name="no value representation behind a command set",
        change=before(explicit(0x00000002, b"UI", b"1.2\0") + implicit(0x00080005, b"ISO_IR 100")),
        refused="unknown value representation",
    ),
    Malformed(
        name="many line ends behind",
        change=behind(b"\r\n" * 6),
        refused="unknown value representation",
    ),
    Malformed(name="text behind", change=behind(b"abcd"), refused="header is cut off"),
    Malformed(
        name="a cut element behind",
        change=behind(explicit(0xFFFCFFFC, b"OB", bytes(10))[:6]),
        refused="header is cut off",
    ),
    Malformed(
        name="a sequence delimiter behind",
        change=behind(delimiter(0xE0DD)),
        refused="a tag that cannot stand in a data set",
    ),
    Malformed(
        name="an unknown value representation",
        change=at(0x00100030, explicit(0x00102160, b"??", b"056Y")),
        refused="unknown value representation",
    ),
    Malformed(
        name="a value representation of NUL",
        change=at(0x00100030, explicit(0x00102160, b"\0\0", b"056Y")),
        refused="unknown value representation",
        why="pydicom, which reads what is kept, loses all elements behind it",
    ),
    Malformed(
        name="text in an explicit sequence",
        change=at(_REFERENCES, explicit(_REFERENCES, b"SQ", b"some text here")),
        refused="a sequence holds something else than items",
    ),
    Malformed(
        name="undefined length of bytes that are no pixels",
        change=at(
            0x00090000,
            _CREATOR
            + pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, _UNDEFINED)
            + item(_IMPLICIT_NAME)
            + delimiter(0xE0DD),
        ),
        refused="undefined length where none may be",
    ),
    Malformed(
        name="no sequence delimiter",
        change=lambda data: at(
            _REFERENCES,
            pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, _UNDEFINED) + item(_EXPLICIT_NAME),
        )(data),
        refused="a sequence holds something else than items",
    ),
)
