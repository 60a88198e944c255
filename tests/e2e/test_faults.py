"""Hostile and broken input to a running node: each is answered, and the node goes on.

One ``segnode serve`` takes all of it. After every test C-ECHO is answered, nothing has appeared outside
the data folder, and no patient is named in the log. What each stage does in detail is tested beside
that stage; this is the short table through the real processes (fault numbers of the issue).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from tests.support import raw_dimse as raw
from tests.support.http_server import BOUNDARY, MULTIPART, Answer, Site, body_of
from tests.support.instances import ct_slice, data_set_bytes, part10_bytes
from tests.support.peers import Node, echo
from tests.support.phantoms import Phantom
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.peers,
    pytest.mark.xdist_group("faults"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

DEFLATED = "1.2.840.10008.1.2.1.99"
STUDIES = "/dicom-web/studies"
# who must never be read in a log
NAME, PATIENT_ID, BIRTH_DATE = "Geheim^Gerda", "PID-4711-77", "19520229"
PATIENT = (("PatientName", NAME), ("PatientID", PATIENT_ID), ("PatientBirthDate", BIRTH_DATE))

RULES = [
    {
        "name": "ct",
        "when": {
            "Modality": "CT",
            "not": {"any": [{"ImageType": {"contains": w}} for w in ("LOCALIZER", "DERIVED")]},
        },
        "run": "ct_tissue",
        "send": ["shelf"],
    }
]


@dataclass
class Watched:
    """The node, and the folder tree around its data folder."""

    node: Node
    root: Path

    def outside(self) -> set[str]:
        """Everything that there is but what the data folder and the shelf hold."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            inside = (self.node.data_dir, self.root / "shelf")
            folders[:] = [name for name in folders if here / name not in inside]
            found |= {str(here / name) for name in (*folders, *names)}
        return found

    @property
    def site(self) -> Site:
        return Site(self.node.http_port)

    def shelf(self) -> list[Path]:
        return sorted(p for p in (self.root / "shelf").rglob("*") if p.is_file())

    def series(self, uid: str, *, state: str) -> dict[str, Any]:
        """The only match of a series, once it is in this state."""

        def match() -> dict[str, Any] | None:
            found = self.node.api(f"/series/{uid}")["matches"]
            return found[0] if [one["state"] for one in found] == [state] else None

        return dict(wait_for(f"series {uid} {state}", match))

    @property
    def quarantined(self) -> int:
        """Files in quarantine; their rows follow a moment later."""
        return len(list((self.node.data_dir / "spool" / "quarantine").iterdir()))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    for name in ("shelf", "temporary"):
        (root / name).mkdir()
    config = {
        "destinations": {"shelf": {"kind": "folder", "path": str(root / "shelf")}},
        "completion": {"release_settle_s": 0.2, "quiet_s": 1, "quiet_max_s": 1.5},
        "rules": RULES,
    }
    environment = {"TMPDIR": str(root / "temporary")}
    node = Node(root / "node", config=config, environment=environment)
    node.start()
    yield Watched(node, root)
    node.stop()


@pytest.fixture(autouse=True)
def it_goes_on(running: Watched) -> Iterator[None]:
    before = running.outside()
    yield
    assert echo(running.node.dicom_port) == 0
    assert running.outside() == before
    assert not Path("/tmp/pwn").exists()
    log = running.node.log()
    for word in ("Geheim", "Gerda", PATIENT_ID, BIRTH_DATE):
        assert word not in log
    # no process of the node was lost
    assert "role ended" not in log


@pytest.fixture
def client(running: Watched) -> Iterator[RawAssociation]:
    offers = (
        *raw.STORAGE_AND_ECHO,
        (raw.CT_IMAGE_STORAGE, (DEFLATED,)),
        (raw.CT_IMAGE_STORAGE, (str(RLELossless),)),
    )
    with RawAssociation(running.node.dicom_port, timeout_s=60) as client:
        assert client.request(offers).kind == raw.ASSOCIATE_AC
        yield client


# --- C-STORE: content -----------------------------------------------------------------------------

UID = "1.2.826.0.1.3680043.8.498.4711"


def instance(number: object = 0, **changes: object) -> Dataset:
    """A CT image of the secret patient; a change to None takes the attribute out."""
    image = ct_slice(1, side=24)
    image.SOPInstanceUID = f"{UID}.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{UID}.1.{number}", f"{UID}.2.{number}"
    for keyword, value in {**dict(PATIENT), **changes}.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


GOOD = data_set_bytes(instance())
HEAD = struct.pack("<HH", 0x0008, 0x1115)
NOISE = hashlib.shake_128(b"noise").digest(5000)


def nested(depth: int) -> bytes:
    """The image with sequences of undefined length, one inside the other."""
    head = HEAD + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    place = GOOD.index(struct.pack("<HH", 0x0010, 0x0010))
    return GOOD[:place] + head * depth + ends * depth + GOOD[place:]


def inserted(element: bytes) -> bytes:
    """The image with an element more, before the patient's name."""
    place = GOOD.index(struct.pack("<HH", 0x0010, 0x0010))
    return GOOD[:place] + element + GOOD[place:]


def changed(**changes: object) -> bytes:
    return data_set_bytes(instance(**changes))


def _with_pixels(image: Dataset, pixels: bytes) -> bytes:
    image.PixelData = pixels
    image["PixelData"].VR = "OW"
    return data_set_bytes(image)


def encapsulated_under_native() -> bytes:
    """Pixel data of undefined length with fragments, in a native transfer syntax."""
    place = GOOD.index(struct.pack("<HH", 0x7FE0, 0x0010))
    fragments = encapsulate([b"\xff\xd8\xff\xd9"], has_bot=True)
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    return GOOD[:place] + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + fragments + end


UNREADABLE = {
    "F15 random bytes": NOISE,
    "F16 an element cut in its value": GOOD[:-40],
    "F16 an element cut in its header": GOOD[: GOOD.index(b"OW") - 3],
    "F17 implicit bytes": data_set_bytes(instance(), is_implicit=True),
    "F18 big-endian bytes": data_set_bytes(instance(), is_little_endian=False),
    "F25 no Study Instance UID": changed(StudyInstanceUID=None),
    "F25 an empty Study Instance UID": changed(StudyInstanceUID=""),
    "F26 sequences 2 000 deep": nested(2000),
    "F26 sequences 100 000 deep": nested(100_000),
    "F28 pixel data with fragments": encapsulated_under_native(),
    "F28 no rows": changed(Rows=0),
    "F29 65535 x 65535": changed(Rows=65535, Columns=65535),
    "F29 99999 frames": changed(NumberOfFrames=99999),
    "F29 33 bits": changed(BitsAllocated=33),
    "F29 pixel data longer than declared": _with_pixels(instance(), bytes(24 * 24 * 2 * 7)),
    "F35 OW of length 0xFFFFFFF0": GOOD.replace(
        b"OW\0\0" + struct.pack("<L", 1152), b"OW\0\0\xf0\xff\xff\xff"
    ),
    "F35 VR ??": inserted(struct.pack("<HH", 0x0008, 0x1030) + b"??\x02\0ab"),
    "F35 a tag twice with two values": inserted(struct.pack("<HH", 0x0008, 0x0060) + b"CS\x02\0MR"),
    "F35 no sequence delimiter": inserted(HEAD + b"SQ\0\0\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_data_set_is_refused_and_quarantined(
    running: Watched, client: RawAssociation, data: bytes
) -> None:
    before = running.quarantined

    response = client.store(data, f"{UID}.0")

    assert raw.status(response) >> 12 == 0xC
    assert client.echo() == 0
    assert running.quarantined == before + 1


def test_f25_the_missing_uid_is_named(client: RawAssociation) -> None:
    response = client.store(UNREADABLE["F25 no Study Instance UID"], f"{UID}.0")

    assert response[0x0901] == struct.pack("<HH", 0x0020, 0x000D)


def test_f19_a_command_without_data_set_is_refused(client: RawAssociation) -> None:
    client.command(1, raw.store_command(UID, data_set_type=0x0101))

    assert raw.status(client.response()) >> 12 == 0xC
    assert client.echo() == 0


def test_f23_a_command_without_instance_uid_is_refused(client: RawAssociation) -> None:
    assert raw.status(client.store(GOOD, None)) in (0x0212, 0xC000)
    assert client.echo() == 0


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "F20 the command names another class than its context": {
        "sop_class_uid": raw.MR_IMAGE_STORAGE,
        "sop_instance_uid": f"{UID}.0",
    },
    "F21 the data set is of another class": {
        "data": changed(SOPClassUID=raw.MR_IMAGE_STORAGE),
        "sop_instance_uid": f"{UID}.0",
    },
    "F22 the data set is another instance": {"sop_instance_uid": f"{UID}.99"},
}


@pytest.mark.parametrize("what", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_f20_f22_command_and_data_set_that_disagree_are_a900(
    client: RawAssociation, what: dict[str, Any]
) -> None:
    assert raw.status(client.store(**{"data": GOOD, **what})) == 0xA900
    assert client.echo() == 0


@pytest.mark.parametrize(
    "uid",
    [
        b"../../../../tmp/pwn", b"/etc/passwd", b"..\\..\\x", b"1.2\x00.3", b"1" * 65,
        b"1..2", b"1.2.", "1.2.é".encode(),
    ],
)  # fmt: skip
def test_f24_a_uid_that_is_none_names_no_file(
    running: Watched, client: RawAssociation, uid: bytes
) -> None:
    response = client.store(GOOD.replace(f"{UID}.0".encode(), uid), uid)

    assert raw.status(response) >> 12 == 0xC or raw.status(response) >> 8 == 0xA9
    assert client.echo() == 0
    assert not [p for p in running.node.data_dir.rglob("*") if b"pwn" in os.fsencode(p)]


def test_f26_sequences_100_deep_are_taken(client: RawAssociation) -> None:
    assert raw.status(client.store(nested(100), f"{UID}.0")) == 0


def test_f27_a_deflate_bomb_is_refused_at_the_cap(client: RawAssociation) -> None:
    body = GOOD[: GOOD.index(struct.pack("<HH", 0x7FE0, 0x0010))]
    body += struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 400_000_000)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezer.compress(body)
    bomb += b"".join(squeezer.compress(bytes(1_000_000)) for _ in range(400)) + squeezer.flush()

    response = client.store(bomb, f"{UID}.0", context_id=7)

    assert raw.status(response) == 0xA700 or raw.status(response) >> 12 == 0xC
    assert client.echo() == 0


def test_f35_an_odd_length_is_tolerated(client: RawAssociation) -> None:
    image = instance("35")
    data = data_set_bytes(image).replace(
        struct.pack("<HH", 0x0010, 0x0020) + b"LO\x0c\0PID-4711-77 ",
        struct.pack("<HH", 0x0010, 0x0020) + b"LO\x0b\0PID-4711-77",
    )
    assert len(data) % 2

    assert raw.status(client.store(data, f"{UID}.35")) == 0


@pytest.mark.parametrize("head", [b"\x7fELF", b"MZ\x90\0", b"%PDF-1.7"])
def test_f31_a_preamble_that_is_a_program_is_stored_as_zeros(running: Watched, head: bytes) -> None:
    image = instance(f"31{head[1]}", PatientComments="F31")
    data = part10_bytes(image)

    assert _post(running, body_of(head.ljust(128, b"\xcc") + data[128:])).status == 200

    stored = [
        path.read_bytes()
        for path in (running.node.data_dir / "spool" / "instances").rglob("*.dcm")
        if image.SOPInstanceUID.encode() in path.read_bytes()
    ]
    assert [content[:132] for content in stored] == [bytes(128) + b"DICM"]


# --- STOW-RS --------------------------------------------------------------------------------------

FILES = [
    part10_bytes(instance(f"40.{number}", StudyInstanceUID=f"{UID}.40")) for number in (1, 2, 3)
]
GARBAGE = b"\x01garbage" * 50


def _post(
    running: Watched, body: bytes, path: str = STUDIES, content_type: str = MULTIPART
) -> Answer:
    return running.site.request("POST", path, body, {"Content-Type": content_type})


def _told(answer: Answer) -> tuple[int, list[int], list[int]]:
    """How many are referenced, and the reasons of those that failed, named and unnamed."""
    module = Dataset.from_json(json.loads(answer.body))
    return (
        len(module.get("ReferencedSOPSequence", [])),
        [item.FailureReason for item in module.get("FailedSOPSequence", [])],
        [item.FailureReason for item in module.get("OtherFailuresSequence", [])],
    )


def test_f40_three_good_instances_are_200(running: Watched) -> None:
    answer = _post(running, body_of(*FILES))

    assert (answer.status, _told(answer)) == (200, (3, [], []))


def test_f41_one_good_and_one_garbage_part_are_202(running: Watched) -> None:
    answer = _post(running, body_of(FILES[0], GARBAGE))

    assert (answer.status, _told(answer)) == (202, (1, [], [0xC000]))


JSON_TYPE = f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'
OTHER_BOUNDARY = MULTIPART.replace(BOUNDARY, "another")
METADATA = json.dumps(
    [{"7FE00010": {"vr": "OW", "BulkDataURI": "http://169.254.169.254/latest/meta-data"}}]
).encode()
REFUSED: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "F42 no boundary": (
        400,
        body_of(FILES[0]),
        {"content_type": 'multipart/related; type="application/dicom"'},
    ),
    "F42 another boundary": (400, body_of(FILES[0]), {"content_type": OTHER_BOUNDARY}),
    "F43 a part typed text/html": (
        409,
        body_of(FILES[0], part_headers="Content-Type: text/html"),
        {},
    ),
    "F43 a part typed image/png": (
        409,
        body_of(FILES[0], part_headers="Content-Type: image/png"),
        {},
    ),
    "F44 delimiters without CR": (400, body_of(FILES[0]).replace(b"\r\n", b"\n"), {}),
    "F45 a body that is cut off": (400, body_of(FILES[0], close=False)[:-100], {}),
    "F46 an empty body": (400, b"", {}),
    "F46 no parts": (400, f"\r\n--{BOUNDARY}--\r\n".encode(), {}),
    "F47 metadata and bulk data": (
        415,
        body_of(METADATA, part_headers="Content-Type: application/dicom+json"),
        {"content_type": JSON_TYPE},
    ),
    "F48 a bulk data URI elsewhere": (
        409,
        body_of(METADATA, part_headers="Content-Type: application/dicom+json"),
        {},
    ),
    "F50 garbage only": (409, body_of(GARBAGE, NOISE, b""), {}),
    "F51 another study than the path": (409, body_of(FILES[0]), {"path": f"{STUDIES}/1.2.3"}),
    "F52 a path that climbs": (400, body_of(FILES[0]), {"path": f"{STUDIES}/abc..%2f..%2fetc"}),
}


@pytest.mark.parametrize(("status", "body", "how"), REFUSED.values(), ids=REFUSED)
def test_f42_f52_a_wrong_request_is_answered_with_its_status(
    running: Watched, status: int, body: bytes, how: dict[str, str]
) -> None:
    assert _post(running, body, **how).status == status


def test_f49_a_single_part_is_taken(running: Watched) -> None:
    assert _post(running, FILES[0], content_type="application/dicom").status == 200


def test_f50_garbage_is_told_as_other_failures(running: Watched) -> None:
    answer = _post(running, body_of(GARBAGE, NOISE))

    assert _told(answer) == (0, [], [0xC000, 0xC000])


def test_f51_the_instance_of_another_study_is_named(running: Watched) -> None:
    stored, (reason,), other = _told(_post(running, body_of(FILES[0]), path=f"{STUDIES}/1.2.3"))

    assert (stored, other) == (0, [])
    assert 0xA900 <= reason <= 0xA9FF


@pytest.mark.parametrize(("length", "statuses"), [(1 << 42, (413,)), (50, (400,))])
def test_f53_a_length_that_lies_is_413_or_400(
    running: Watched, length: int, statuses: tuple[int, ...]
) -> None:
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {MULTIPART}\r\n"

    answer = running.site.send(f"{head}Content-Length: {length}\r\n\r\n".encode() + FILES[0][:200])

    assert answer.status in statuses


# --- imaging logic --------------------------------------------------------------------------------

SMALL = Phantom(shape=(6, 36, 40), spacing_mm=(30.0, 6.0, 7.0), attributes=PATIENT)


def _phantom(fault: str, **changes: object) -> Phantom:
    attributes = {**dict(PATIENT), **changes}
    return replace(SMALL, study=fault, series=fault, attributes=tuple(attributes.items()))


def _files(instances: Sequence[Dataset]) -> bytes:
    contents = []
    for one in instances:
        buffer = BytesIO()
        one.save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    return body_of(*contents)


def _seg_of(running: Watched, study_instance_uid: str) -> Dataset:
    def found() -> Dataset | None:
        segs = [dcmread(path) for path in running.shelf()]
        of_study = [seg for seg in segs if seg.StudyInstanceUID == study_instance_uid]
        assert len(of_study) <= 1
        return of_study[0] if of_study else None

    return wait_for("the SEG", found)


def test_f60_a_source_without_type_2_attributes_gets_a_seg_with_empty_ones(
    running: Watched,
) -> None:
    names = ("PatientID", "StudyID", "PatientBirthDate", "AccessionNumber")
    phantom = _phantom("F60", **dict.fromkeys(names))

    assert _post(running, body_of(*phantom.files())).status == 200

    seg = _seg_of(running, phantom.uid("study"))
    assert [str(seg[name].value or "") for name in names] == [""] * 4


NAMES = {
    "F36 ISO 2022 JP": ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "F36 an emoji": ("ISO_IR 192", "Smile^😀"),
}


@pytest.mark.parametrize(("charset", "name"), NAMES.values(), ids=NAMES)
def test_f36_names_come_back_byte_for_byte(running: Watched, charset: str, name: str) -> None:
    sets = ["", charset] if charset.startswith("ISO 2022") else charset
    phantom = _phantom(f"F36 {charset}", SpecificCharacterSet=sets, PatientName=name)
    data = phantom.files()
    source = dcmread(BytesIO(data[0])).get_item("PatientName").value

    assert _post(running, body_of(*data)).status == 200

    seg = _seg_of(running, phantom.uid("study"))
    buffer = BytesIO()
    seg.save_as(buffer)
    assert dcmread(BytesIO(buffer.getvalue())).get_item("PatientName").value == source
    assert str(seg.PatientName) == name


def test_f36_a_character_set_that_lies_is_accepted(
    running: Watched, client: RawAssociation
) -> None:
    image = instance("36", SpecificCharacterSet="ISO_IR 192")
    data = data_set_bytes(image).replace(b"Geheim^Gerda", b"M\xfcll\xe9r^Gerda")

    assert raw.status(client.store(data, f"{UID}.36")) == 0


def _no_frame_of_reference(instances: list[Dataset]) -> None:
    for one in instances:
        del one.FrameOfReferenceUID


def _mixed_frames_of_reference(instances: list[Dataset]) -> None:
    instances[2].FrameOfReferenceUID = "1.2.3"


def _a_coronal_slice(instances: list[Dataset]) -> None:
    instances[2].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _a_position_twice(instances: list[Dataset]) -> None:
    instances[2].ImagePositionPatient = instances[3].ImagePositionPatient


def _other_rows(instances: list[Dataset]) -> None:
    instances[2].Rows, instances[2].Columns = instances[2].Columns, instances[2].Rows


def _a_gap(instances: list[Dataset]) -> None:
    del instances[2]


def _uneven(instances: list[Dataset]) -> None:
    x, y, z = instances[2].ImagePositionPatient
    instances[2].ImagePositionPatient = [x, y, float(z) + 6]


def _tilted(instances: list[Dataset]) -> None:
    for number, one in enumerate(instances):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, float(y) + 8 * number, z]


def _one_slice(instances: list[Dataset]) -> None:
    del instances[1:]


def _two_slices(instances: list[Dataset]) -> None:
    del instances[2:]


PARKED: dict[str, tuple[Callable[[list[Dataset]], None], str]] = {
    "F61 no Frame of Reference": (_no_frame_of_reference, "no Frame of Reference"),
    "F61 two Frames of Reference": (_mixed_frames_of_reference, "Frames of Reference"),
    "F62 a slice across the others": (_a_coronal_slice, "two orientations"),
    "F62 two images at one position": (_a_position_twice, "two images at one position"),
    "F62 rows differ": (_other_rows, "36 x 40"),
    "F63 a missing slice": (_a_gap, "gap"),
    "F63 uneven spacing": (_uneven, "uneven spacing"),
    "F63 a tilted gantry": (_tilted, "shear"),
    "F64 one slice": (_one_slice, "one slice: not a volume"),
    "F64 two slices": (_two_slices, "2 slices"),
}


@pytest.mark.parametrize(("fault", "sentence"), PARKED.values(), ids=PARKED)
def test_f61_f64_what_is_no_volume_parks_with_its_reason(
    request: pytest.FixtureRequest,
    running: Watched,
    fault: Callable[[list[Dataset]], None],
    sentence: str,
) -> None:
    phantom = _phantom(request.node.callspec.id)
    instances = phantom.datasets()
    fault(instances)

    assert _post(running, _files(instances)).status == 200

    match = running.series(phantom.uid("series"), state="parked")
    assert sentence in match["sentence"]
    assert "segnode series rerun" in match["sentence"]


@pytest.mark.long
def test_f64_three_thousand_slices_are_one_series(running: Watched) -> None:
    phantom = replace(_phantom("F64 many"), shape=(3000, 20, 20), spacing_mm=(0.1, 14.0, 14.0))

    assert _post(running, body_of(*phantom.files())).status == 200

    running.series(phantom.uid("series"), state="done")
    assert running.node.api(f"/series/{phantom.uid('series')}")["instances"] == 3000


def test_f65_a_colour_capture_a_derived_series_and_a_report_are_not_routed(
    running: Watched,
) -> None:
    derived = _phantom("F65 derived", ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    capture = instance(
        "65", SOPClassUID=SecondaryCaptureImageStorage, Rows=20, Columns=20,
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(1200),
    )  # fmt: skip
    report = instance("66", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", PixelData=None)
    whole = body_of(*derived.files(), part10_bytes(capture), part10_bytes(report))

    assert _post(running, whole).status == 200

    running.series(derived.uid("series"), state="unmatched")
    running.series(capture.SeriesInstanceUID, state="not_an_input")
    running.series(report.SeriesInstanceUID, state="not_an_input")


def test_f66_another_patient_or_study_in_a_series_is_quarantined(running: Watched) -> None:
    instances = _phantom("F66").datasets()
    instances[4].PatientID = "SOMEBODY-ELSE"
    instances[5].StudyInstanceUID = "1.2.3.4"
    before = running.quarantined

    answer = _post(running, _files(instances))

    stored, failed, other = _told(answer)
    assert (answer.status, stored, len(failed), other) == (202, 4, 2, [])
    assert {reason >> 12 for reason in failed} == {0xC}
    assert running.quarantined == before + 2


def test_f66_one_series_from_two_senders_is_one_series(running: Watched) -> None:
    phantom = _phantom("F66 two senders")
    instances = phantom.datasets()
    port = running.node.dicom_port
    for calling, part in ((b"ONE", instances[:3]), (b"TWO", instances[3:])):
        with RawAssociation(port) as client:
            client.request(calling=calling)
            for one in part:
                assert raw.status(client.store(data_set_bytes(one), one.SOPInstanceUID)) == 0
            client.release()

    match = running.series(phantom.uid("series"), state="done")

    assert len(running.node.api(f"/series/{phantom.uid('series')}")["instance_list"]) == 6
    assert match["job_id"]


def test_f69_a_lossy_source_gives_a_seg_that_says_so(running: Watched) -> None:
    phantom = _phantom(
        "F69",
        LossyImageCompression="01",
        LossyImageCompressionRatio=8,
        LossyImageCompressionMethod="ISO_15444_1",
    )

    assert _post(running, body_of(*phantom.files())).status == 200

    assert _seg_of(running, phantom.uid("study")).LossyImageCompression == "01"


def test_f70_a_seg_of_ours_that_comes_back_makes_no_job(
    running: Watched, client: RawAssociation
) -> None:
    phantom = _phantom("F70")
    _post(running, body_of(*phantom.files()))
    seg = _seg_of(running, phantom.uid("study"))
    buffer = BytesIO()
    seg.save_as(buffer)
    jobs = running.node.api("/jobs")["total"]

    assert _post(running, body_of(buffer.getvalue())).status == 200

    running.series(seg.SeriesInstanceUID, state="not_an_input")
    assert running.node.api("/jobs")["total"] == jobs


# --- F30: codestreams that only a decoder can refuse ----------------------------------------------


def _cut(frame: bytes) -> bytes:
    return frame[: len(frame) // 3]


def _huge(frame: bytes) -> bytes:
    """J2K: a SIZ marker that declares 65535 x 65535."""
    place = frame.index(b"\xff\x51") + 6
    return frame[:place] + struct.pack(">LL", 65535, 65535) + frame[place + 8 :]


def _bad_rle(frame: bytes) -> bytes:
    """RLE: a header whose segments lie behind the end."""
    return struct.pack("<16L", 2, 64, 0x7FFFFFFF, *[0] * 13) + frame[64:]


CODESTREAMS = {
    "F30 a cut JPEG 2000": (JPEG2000Lossless, _cut, "cannot be decoded"),
    "F30 a JPEG 2000 that declares 65535 x 65535": (
        JPEG2000Lossless,
        _huge,
        "is coded as (65535, 65535, 1)",
    ),
    "F30 an RLE header out of range": (RLELossless, _bad_rle, "cannot be decoded"),
    "F30 noise in place of JPEG": (JPEGBaseline8Bit, lambda _: NOISE, "cannot be decoded"),
}


@pytest.mark.parametrize(("syntax", "damage", "sentence"), CODESTREAMS.values(), ids=CODESTREAMS)
def test_f30_a_damaged_codestream_fails_its_job_with_a_sentence_and_no_more(
    request: pytest.FixtureRequest,
    running: Watched,
    syntax: str,
    damage: Callable[[bytes], bytes],
    sentence: str,
) -> None:
    phantom = _phantom(request.node.callspec.id)
    instances = phantom.datasets()
    for one in instances:
        if syntax != JPEGBaseline8Bit:
            one.compress(syntax, generate_instance_uid=False)
        frame = one.PixelData[16 + int.from_bytes(one.PixelData[4:8], "little") :]
        one.PixelData = encapsulate([damage(frame)], has_bot=True)
        one["PixelData"].VR = "OB"
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = syntax

    assert _post(running, _files(instances)).status == 200

    match = running.series(phantom.uid("series"), state="failed")
    assert sentence in match["sentence"]
    assert not [p for p in running.shelf() if dcmread(p).StudyInstanceUID == phantom.uid("study")]


def test_f30_pixel_data_without_fragments_is_refused(client: RawAssociation) -> None:
    place = GOOD.index(struct.pack("<HH", 0x7FE0, 0x0010))
    empty = (
        b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    )

    assert raw.status(client.store(GOOD[:place] + empty, f"{UID}.0", context_id=9)) >> 12 == 0xC
