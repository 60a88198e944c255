"""What the field sends and the Standard does not allow: taken and right, or told for what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset

from tests.support.malformed import SECOND_META, TAKEN, Malformed, at, explicit, nested_file
from tests.support.phantoms import Phantom
from tests.wrong_inputs.case import Case, File, file_of

_REFUSED_BEFORE = "every image refused (C000)"
_SOUND = Malformed(name="sound", change=bytes)
_KINDS = {kind.name: kind for kind in TAKEN}
# one of each kind that exporters are known to leave
_TOLERATED = (
    "8 zeros behind, explicit",
    "one NUL behind, implicit",
    "CR LF behind, explicit",
    "an item delimiter behind",
    "group 0004",
    "a command set, implicit",
    "group 0006",
    "tags out of order",
    "an element twice with one value",
    "no value representation",
    "UN of undefined length in big endian",
    "text in a sequence",
    "a delimiter with a length",
)


def _images(name: str, **attributes: object) -> list[Dataset]:
    """Twelve slices of a chest, as a series of their own."""
    return Phantom(
        study=name,
        series=name,
        shape=(12, 56, 72),
        spacing_mm=(16.0, 4.0, 4.5),
        attributes=tuple(attributes.items()),
    ).datasets()


def _all(kind: Malformed) -> Callable[[], Sequence[File]]:
    return lambda: [File(content=kind.file(image)) for image in _images(kind.name)]


def _every_second(name: str, broken: Callable[[Dataset], bytes]) -> Callable[[], Sequence[File]]:
    """Every second image is one that the node refuses."""
    return lambda: [
        File(content=broken(image), is_kept=False)
        if number % 2
        else File(content=_SOUND.file(image))
        for number, image in enumerate(_images(name))
    ]


def _leading_zeros() -> list[File]:
    images = _images("zeros")
    for number, image in enumerate(images):
        image.StudyInstanceUID = "1.2.826.0.02.7"
        image.SeriesInstanceUID = "1.2.826.0.02.7.00"
        image.SOPInstanceUID = f"1.2.826.0.02.7.00.{number:03}"
    return [File(content=_SOUND.file(image)) for image in images]


def _at_depths(depths_mm: Sequence[float]) -> Callable[[], Sequence[File]]:
    def files() -> list[File]:
        images = _images("depths")[: len(depths_mm)]
        for image, depth in zip(images, depths_mm, strict=True):
            x, y, _ = images[0].ImagePositionPatient
            image.ImagePositionPatient = [x, y, depth]
        return [File(content=file_of(image)) for image in images]

    return files


def _magnitude_and_field_map() -> list[File]:
    images = []
    for kind, echo_ms in (("M", 4.6), ("FIELD_MAP", 6.9)):
        half = _images("field map", Modality="MR", EchoTime=echo_ms)
        for image in half:
            image.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
            image.SOPInstanceUID = f"{image.SOPInstanceUID[:50]}.{1 if kind == 'M' else 2}"
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        images += half
    return [File(content=file_of(image)) for image in images]


def _frames(text: bytes) -> Malformed:
    return Malformed(name="frames", change=at(0x00280004, explicit(0x00280008, b"IS", text)))


CASES = (
    *(
        Case(
            name=f"tolerated: {kind.name}",
            files=_all(kind),
            state="done",
            exit_code=0,
            old=_REFUSED_BEFORE,
        )
        for kind in (*(_KINDS[name] for name in _TOLERATED), SECOND_META)
    ),
    Case(
        name="UIDs with leading zeros",
        files=_leading_zeros,
        state="done",
        exit_code=0,
        old=_REFUSED_BEFORE,
    ),
    Case(
        name="Number of Frames 1.0",
        files=lambda: [File(content=_frames(b"1.0 ").file(i)) for i in _images("frames 1.0")],
        state="done",
        exit_code=0,
        old="every image refused (C010), without the name of the attribute",
    ),
    Case(
        name="Number of Frames in words in every second image",
        files=_every_second("frames one", lambda image: _frames(b"one ").file(image)),
        state="held",
        reasons=("images_refused",),
        sentence="refused",
        exit_code=1,
        old="done",
    ),
    Case(
        name="Rows twice with other values in every second image",
        files=_every_second(
            "rows twice",
            Malformed(
                name="rows twice", change=at(0x00280010, explicit(0x00280010, b"US", b"\x08\0"))
            ).file,
        ),
        state="held",
        reasons=("images_refused",),
        sentence="refused",
        exit_code=1,
        old="done",
    ),
    Case(
        name="every second image nested 10,000 deep",
        files=_every_second("deep", lambda image: nested_file(image, 10_000)),
        state="held",
        reasons=("images_refused",),
        sentence="refused",
        exit_code=1,
        old="done, and a RecursionError in explain",
    ),
    Case(
        name="Pixel Spacing with commas",
        files=_all(
            Malformed(name="commas", change=lambda data: data.replace(b"4.0\\4.5", b"4,0\\4,5"))
        ),
        state="parked",
        sentence="Pixel Spacing malformed in 12 of 12 images",
        exit_code=0,
        old="parked: no Pixel Spacing",
    ),
    Case(
        name="a gap and an uneven step",
        files=_at_depths([0, 10, 20, 170, 180, 192.86, 202.86]),
        state="parked",
        sentence="up to 28.6% off",
        exit_code=0,
        old="parked: up to 1400.0% off",
    ),
    Case(
        name="magnitude images and a field map",
        files=_magnitude_and_field_map,
        model="probe",
        state="parked",
        sentence="could be split into 2 kinds of image by ImageType",
        exit_code=0,
        old="parked: could be split into 2 phases by EchoTime",
    ),
)
