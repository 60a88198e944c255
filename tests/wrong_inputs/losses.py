"""Series of which images are refused: whatever the cause, no unmarked result is made of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.phantoms import Phantom
from tests.wrong_inputs.case import ROADS, Case, File, file_of

Breaking = Callable[[bytes], bytes]

SLICES = 24


def chest(series: str = "losses", *, slices: int = SLICES) -> Phantom:
    """A torso over 200 mm, in which ``ct_tissue`` finds lungs."""
    return Phantom(
        study=series, series=series, shape=(slices, 56, 72), spacing_mm=(200.0 / slices, 5.0, 5.0)
    )


def one_row_too_many(file: bytes) -> bytes:
    """Rows says one more than there are pixels for."""
    instance = _read(file)
    instance.Rows += 1
    return file_of(instance)


def pixels_short(file: bytes) -> bytes:
    """Pixel Data ends 100 bytes early, and says so."""
    instance = _read(file)
    instance.PixelData = instance.PixelData[:-100]
    return file_of(instance)


def cut_in_pixels(file: bytes) -> bytes:
    """The file was copied in part: it ends within its pixels."""
    return file[: len(file) - 200]


def cut_in_header(file: bytes) -> bytes:
    """It ends before the header names a series."""
    return file[: file.index(_read(file).SeriesInstanceUID.encode()) - 30]


def empty(_: bytes) -> bytes:
    """A file of no bytes."""
    return b""


def text(_: bytes) -> bytes:
    """A file that holds something else than DICOM."""
    return b"the disk was full when this was written\n"


def foreign_syntax(file: bytes) -> bytes:
    """A transfer syntax that nobody here decodes."""
    return file.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)


BREAKINGS: Sequence[Breaking] = (
    one_row_too_many,
    pixels_short,
    cut_in_pixels,
    cut_in_header,
    empty,
    text,
    foreign_syntax,
)


def broken(files: Sequence[bytes], which: Sequence[int], breaking: Breaking) -> list[File]:
    """The files of a series, those in ``which`` broken."""
    return [
        File(content=breaking(file), is_kept=False) if index in which else File(content=file)
        for index, file in enumerate(files)
    ]


def _read(file: bytes) -> Dataset:
    return dcmread(BytesIO(file))


def _case(
    name: str,
    breaking: Breaking,
    which: Sequence[int],
    old: str,
    transports: frozenset[str] = ROADS,
) -> Case:
    return Case(
        name=name,
        files=lambda: broken(chest(name).files(), which, breaking),
        state="held",
        reasons=("images_refused",),
        sentence=f"{len(which)} of {SLICES} images were refused",
        exit_code=1,
        old=old,
        transports=transports,
    )


def _without_pixels() -> list[File]:
    """Every second image lost its pixel data, and is kept all the same."""
    files = []
    for index, file in enumerate(chest("without pixels").files()):
        instance = _read(file)
        if index % 2 == 0:
            del instance.PixelData
        files.append(File(content=file_of(instance)))
    return files


_EVERY_SECOND = range(1, SLICES, 2)
_LAST_THIRD = range(16, SLICES)
_FIRST_8 = range(8)

CASES = (
    _case("every second slice has a row too many", one_row_too_many, _EVERY_SECOND, "done"),
    _case("the last third has short pixels", pixels_short, _LAST_THIRD, "done"),
    _case("the first 8 files are cut", cut_in_pixels, _FIRST_8, "done"),
    _case("the first 8 files are cut before they name a series", cut_in_header, _FIRST_8, "done"),
    _case("the last third are files of no bytes", empty, _LAST_THIRD, "done"),
    _case("the last third hold text", text, _LAST_THIRD, "done"),
    _case(
        "every second slice has a foreign syntax",
        foreign_syntax,
        _EVERY_SECOND,
        "done",
        ROADS - {"dimse"},  # there such a context is refused, and nothing is sent
    ),
    Case(
        name="every second image without pixel data",
        files=_without_pixels,
        state="held",
        reasons=("images_refused",),
        sentence="12 of 24 images were refused (12 x it came without pixel data)",
        exit_code=1,
        old="done",
    ),
)
