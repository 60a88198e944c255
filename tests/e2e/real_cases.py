"""What must happen to every real case, as data: the rules, and one row per case.

A row holds for all roads, but for what a road cannot carry: an answer may be given by road. A file that
is not named in ``answers`` is answered 0000. A case whose members share one SOP Instance UID has a row
for all of them together and one for each ``member`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.support.cases import Cases

DONE, PARKED, UNMATCHED, NOT_AN_INPUT = "done", "parked", "unmatched", "not_an_input"
State = Literal["done", "parked", "unmatched", "not_an_input"]

RULES: list[dict[str, Any]] = [
    {
        "name": "ct",
        "when": {
            "Modality": "CT",
            "not": {
                "any": [
                    {"ImageType": {"contains": "LOCALIZER"}},
                    {"ImageType": {"contains": "PERFUSION"}},
                ]
            },
        },
        "run": "ct_tissue",
        "send": ["shelf"],
    },
    {
        "name": "mr",
        "when": {"Modality": "MR", "not": {"ImageType": {"contains": "ADC"}}},
        "run": "probe",
        "send": ["shelf"],
    },
    {"name": "pt", "when": {"Modality": "PT"}, "run": "probe", "send": ["shelf"]},
]


@dataclass(frozen=True, kw_only=True)
class Series:
    """What becomes of one series.

    Args:
        instances: Stored ones, images and others.
        images: Those that a model is given; None: all of them.
        says: What its sentence must hold; the findings of a parked one, all and in order.
        notes: How the remarks of the geometry gate begin.
        times: So many series of this kind.
    """

    modality: str
    instances: int
    state: State
    images: int | None = None
    says: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row.

    Args:
        folder: Below the folder of real cases.
        stored: Instances kept; files answered 0000 beyond them are duplicates.
        answers: File -> answer, or road -> answer where it differs ("" is every other road).
        member: The only file, or folder, of the case that is sent.
        held: What its series are held for, until a person lets them go on.
        copied_fault: Attribute that is wrong in the source, and so in the SEG.
    """

    folder: str
    stored: int
    series: tuple[Series, ...]
    answers: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    member: str = ""
    held: str = ""
    copied_fault: str = ""

    def __str__(self) -> str:
        return f"{self.folder}/{self.member}" if self.member else self.folder

    def files(self, shared_data: Cases) -> dict[str, Path]:
        """What is sent."""
        root = shared_data / self.folder
        found = {
            str(path.relative_to(root)): path
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != "README.md"
        }
        if not self.member:
            return found
        return {
            name: path
            for name, path in found.items()
            if name == self.member or name.startswith(f"{self.member}/")
        }

    def answer(self, name: str, transport: str) -> str:
        """The expected answer to a file on a road."""
        expected = self.answers.get(name, "0000")
        if isinstance(expected, str):
            return expected
        return expected.get(transport, expected[""])


# STOW-RS names an instance that failed only where its UIDs could be read
UNNAMED = {"stow": "C000 other", "": "C000"}
UNSPECIFIED = "the model takes HU, the series is unspecified (Rescale Type US)"
NO_FRAME_OF_REFERENCE = "no Frame of Reference"
GAP = "gap: 1 slice missing after slice"
STS = "derived_ct_sts_001"


def _ct(instances: int, state: State = DONE, *says: str) -> Series:
    return Series(modality="CT", instances=instances, state=state, says=says)


def _mr(instances: int, state: State = DONE, *says: str) -> Series:
    return Series(modality="MR", instances=instances, state=state, says=says)


def _aside(modality: str, instances: int = 1, times: int = 1) -> Series:
    return Series(modality=modality, instances=instances, state=NOT_AN_INPUT, times=times)


def _one(folder: str, instances: int, series: Series) -> Case:
    return Case(folder=folder, stored=instances, series=(series,))


def _sts(name: str, series: Series, **more: Any) -> Case:
    stored = more.pop("stored", series.instances)
    folder = f"{STS}/{name}"
    return Case(folder=folder, stored=stored, series=(series,), copied_fault="StudyID", **more)


# --- cases of their own -------------------------------------------------------------------------

WHOLE = (
    _one("ct_abdomen_crlm-ct-1004", 36, _ct(36)),
    _one("mr_brain_t1_sag_hfs", 35, _mr(35)),
    _one("mr_brain_t1_sag_hfdl", 35, _mr(35)),
    Case(
        folder="study_ct_mr_pet_sts_001",
        stored=178,
        series=(
            _ct(59),
            _mr(59),
            Series(modality="PT", instances=59, state=DONE),
            _aside("RTSTRUCT"),
        ),
        copied_fault="StudyID",
    ),
    _one(
        "pet_uneven_spacing_slope",
        80,
        Series(modality="PT", instances=80, state=DONE, notes=("spacing jitter 0.6%",)),
    ),
    _one("mr_mosaic_dwi_hfs", 2, _mr(2, PARKED, "two images at one position")),
    _one(
        "mr_multiphase_same_positions_ucsf_06",
        18,
        _mr(
            18,
            PARKED,
            "18 images, 3 images at each of 6 positions: "
            "could be split into 3 phases by ContentTime",
        ),
    ),
    _one("mr_abdomen_adc_cmb", 18, _mr(18, UNMATCHED, "rule mr: does not fit: ImageType")),
    Case(
        folder="mr_enhanced_philips_phantom",
        stored=26,
        series=(_mr(24), Series(modality="MR", instances=2, images=1, state=DONE)),
    ),
    _one("ct_enhanced", 1, _ct(1, UNMATCHED, "rule ct: does not fit: ImageType")),
    Case(
        folder="ct_legacy_converted_enhanced",
        stored=5,
        # masks of 0 and 1 in CT's clothes: Rescale Type US
        series=(_ct(3, PARKED, UNSPECIFIED), _ct(1, PARKED, UNSPECIFIED), _aside("SEG")),
    ),
    _one("mr_enhanced_hyperfine", 1, _mr(1, PARKED, NO_FRAME_OF_REFERENCE)),
    _one("mr_hitachi_implicit", 4, _mr(4, PARKED, NO_FRAME_OF_REFERENCE)),
    _one("ct_gantry_tilt", 4, _ct(4, PARKED, NO_FRAME_OF_REFERENCE, "shear 14 degrees")),
    _one(
        "ct_missing_slice", 4, _ct(4, PARKED, NO_FRAME_OF_REFERENCE, f"{GAP} 3 (steps 5/5/10 mm)")
    ),
    _one("ct_not_a_volume", 2, _ct(2, PARKED, NO_FRAME_OF_REFERENCE, "two images at one position")),
    _one(
        "mr_mixed_orientations",
        4,
        _mr(4, PARKED, NO_FRAME_OF_REFERENCE, "two orientations in one series"),
    ),
    _one(
        "mr_single_slice_series",
        1,
        _mr(1, PARKED, NO_FRAME_OF_REFERENCE, "one slice: not a volume"),
    ),
    Case(
        folder="ct_tiny_series",
        stored=9,
        series=(
            _ct(4, PARKED, "gap: 161 slices missing after slice 1 (steps 202.5", "16 x 16 pixels"),
            _ct(5, PARKED, "16 x 16 pixels"),
        ),
    ),
    Case(
        folder="deflated",
        stored=3,
        series=(_aside("OT"), _aside("SEG", times=2)),
        # Deflated Image Frame Compression is in no context that is accepted
        answers={"liver_deflate.dcm": {"dimse": "context refused", "": "C122"}},
    ),
    Case(folder="seg_breast_ucsf_06", stored=1, series=(_aside("SEG"),)),
    Case(
        folder="seg_highdicom_binary",
        stored=3,
        # the CT image lies there as the source of a SEG
        series=(_aside("SEG", times=2), _ct(1, PARKED, "one slice: not a volume")),
    ),
    Case(
        folder="seg_liver_ct3slice",
        stored=5,
        # three whole slices of a CT are what a CT rule asks for
        series=(_aside("SEG", times=2), _ct(3)),
        copied_fault="SpecificCharacterSet",
    ),
    Case(
        folder="non_image_objects",
        stored=10,
        series=(
            _aside("SR", times=2),
            _aside("OT", 2),
            _aside("OT"),
            *(_aside(modality) for modality in ("RTPLAN", "RTDOSE", "RTSTRUCT", "ECG", "US")),
        ),
    ),
    Case(
        folder="charsets",
        stored=14,
        series=(_aside("OT", times=11), _aside("CR", times=2)),
        answers={
            # shares its SOP Instance UID with chrJapMulti and differs in a name
            "chrJapMultiExplicitIR6.dcm": "C020",
            # without SOP Instance UID
            "chrSQEncoding.dcm": UNNAMED,
            "chrSQEncoding1.dcm": UNNAMED,
        },
    ),
    _one("dicomdir_tiny_alpha", 50, _aside("CT", 50)),
)

# --- one instance in many encodings ---------------------------------------------------------------

ONE_SLICE = "one slice: not a volume"
NO_POSITIONS = ("no positions at all", "no Pixel Spacing in 10 of 10 images")
TOO_SHORT = "emri_small_jpeg_2k_lossless_too_short.dcm"

MR_SMALL = tuple(
    f"MR_small{name}.dcm"
    for name in (
        "", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless",
        "_padded",
    )
)  # fmt: skip
MR_MIXED = tuple(f"compressed{name}" for name in ("", "_j2k", "_jpeg", "_jpegls", "_rle"))
EMRI_SMALL = tuple(
    f"emri_small{name}.dcm"
    for name in ("", "_RLE", "_big_endian", "_jpeg_2k_lossless", "_jpeg_ls_lossless")
)

ENCODINGS = (
    _one("mr_small_transfer_syntaxes", 1, _mr(1, PARKED, ONE_SLICE)),
    _one("mr_mixed_transfer_syntaxes", 4, _mr(4, PARKED, NO_FRAME_OF_REFERENCE)),
    Case(
        folder="mr_enhanced_small_transfer_syntaxes",
        stored=1,
        series=(_mr(1, PARKED, *NO_POSITIONS),),
        answers={TOO_SHORT: "C000"},
    ),
    Case(
        folder="mr_enhanced_small_transfer_syntaxes",
        member=TOO_SHORT,
        stored=0,
        series=(),
        answers={TOO_SHORT: "C000"},
    ),
    # alone, and not beside the files whose UID they have
    Case(folder="charsets", member="chrJapMultiExplicitIR6.dcm", stored=1, series=(_aside("CR"),)),
    Case(folder="charsets", member="chrFrenMulti.dcm", stored=1, series=(_aside("OT"),)),
)
MEMBERS = {
    "mr_small_transfer_syntaxes": [
        Case(
            folder="mr_small_transfer_syntaxes",
            member=member,
            stored=1,
            series=(_mr(1, PARKED, ONE_SLICE),),
        )
        for member in MR_SMALL
    ],
    "mr_mixed_transfer_syntaxes": [
        Case(
            folder="mr_mixed_transfer_syntaxes",
            member=member,
            stored=4,
            series=(_mr(4, PARKED, NO_FRAME_OF_REFERENCE),),
        )
        for member in MR_MIXED
    ],
    "mr_enhanced_small_transfer_syntaxes": [
        Case(
            folder="mr_enhanced_small_transfer_syntaxes",
            member=member,
            stored=1,
            series=(_mr(1, PARKED, *NO_POSITIONS),),
        )
        for member in EMRI_SMALL
    ],
}

# --- broken files: an answer for each, and in quarantine if and only if it was a failure -----------

BROKEN = Case(
    folder="broken_files",
    stored=3,
    held="images were refused",  # what names no series may belong to any beside it
    series=(
        _ct(1, PARKED, ONE_SLICE),
        _aside("RTPLAN"),
        # every VR is UN, so that no rule can read a Modality
        Series(modality="", instances=1, state=UNMATCHED, says=("unknown: Modality",)),
    ),
    answers={
        "MR_truncated.dcm": "C000",  # pixel data end early
        "UN_sequence.dcm": UNNAMED,  # no UIDs
        "badVR.dcm": "C010",  # Number of Frames is no number
        "bad_sequence.dcm": "C000",  # no UIDs but that of the class
        "empty_charset_LEI.dcm": UNNAMED,  # no UIDs
        "meta_missing_tsyntax.dcm": UNNAMED,  # no data set
        "nested_priv_SQ.dcm": UNNAMED,  # no UIDs
        "no_meta.dcm": UNNAMED,  # a value is longer than the file
        "no_meta_group_length.dcm": UNNAMED,  # no UIDs
        "priv_SQ.dcm": UNNAMED,  # no UIDs
        "rtplan_truncated.dcm": "C000",  # an item ends early
    },
)
# dcmsend takes the bytes of a UID of unknown VR for its text, and announces no class that exists
BROKEN_BY_DIMSE = Case(
    folder="broken_files",
    stored=2,
    held=BROKEN.held,
    series=BROKEN.series[:2],
    answers={**BROKEN.answers, "explicit_VR-UN.dcm": "0122"},
)

# --- derived from one CT ------------------------------------------------------------------------

DERIVED = (
    _sts("plain", _ct(10)),
    _sts("shuffled_no_instance_order", _ct(10)),
    _sts("no_body_part_no_description", _ct(10)),
    _sts("flipped_x_ffp", _ct(10)),
    _sts("private_tags", _ct(6)),
    _sts("names_utf8", _ct(4)),
    _sts("names_iso2022jp", _ct(4)),
    _sts("names_gb18030", _ct(4)),
    Case(folder=f"{STS}/names_empty", stored=4, series=(_ct(4),)),
    _sts("coronal_reslice", _ct(12)),
    _sts("sagittal_reslice", _ct(12)),
    _sts("ts_rle", _ct(10)),
    _sts("ts_jpegls", _ct(10)),
    _sts("ts_j2k", _ct(10)),
    _sts("ts_deflated", _ct(10)),
    _sts("ts_big_endian", _ct(10)),
    _sts("ts_jpeg_lossless_sv1", _ct(10)),
    _sts("exact_duplicates", _ct(10)),
    _sts("same_uid_other_pixels", _ct(10), answers={"010.dcm": "C020"}),
    _sts("same_position_other_uid", _ct(11, PARKED, "two images at one position: at slice 5")),
    _sts("uneven_spacing", _ct(10, PARKED, "uneven spacing after slice 5: up to 52.0% off")),
    _sts("missing_slice", _ct(9, PARKED, f"{GAP} 6")),
    _sts("localizer_two_slices", _ct(2, UNMATCHED, "rule ct: does not fit: ImageType")),
    _sts(
        "corrupt",
        _ct(6),
        held="images were refused",
        answers={
            "absurd_rows.dcm": "C010",
            "short_pixels.dcm": "C010",
            "trunc60.dcm": "C000",
            "text.dcm": UNNAMED,
            "empty.dcm": UNNAMED,
            "trunc_header.dcm": UNNAMED,
        },
    ),
)

CASES = (*WHOLE, *ENCODINGS, *DERIVED)
EVERY_ROAD = ("dimse", "stow", "folder")


def rows() -> list[tuple[Case, str]]:
    """Every case with every road."""
    found = [(case, transport) for case in CASES for transport in EVERY_ROAD]
    # a request for each file, of a sender without a name: nothing tells which series they are of
    by_stow = replace(BROKEN, held="")
    found += [(BROKEN_BY_DIMSE, "dimse"), (by_stow, "stow"), (BROKEN, "folder")]
    return found
