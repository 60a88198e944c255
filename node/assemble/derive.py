"""Derived attributes: what rules may ask for beside DICOM keywords.

Each is a tuple of one value, or ``Missing`` with the reason: what the headers do not tell is
unknown, never a silent no.

=================  ====================================================================
slices             planes of pixels: images, or frames of multi-frame images
rows, columns      of every image; unknown where they differ
spacing_mm         the largest of slice, row and column spacing, so ``{max: 1.5}`` means
                   "no voxel edge above 1.5 mm"; measured from positions, not thickness
orientation        axial, sagittal, coronal; oblique where the normal is more than 37
                   degrees (cosine 0.8) off every axis
is_localizer       Image Type says LOCALIZER, or few images lie in a few orientations;
                   projections that turn about the patient are none
is_derived         Image Type value 1 is DERIVED
is_volume          the geometry gate has no finding
has_gaps           slices are missing inside the stack
quantity           what the numbers measure (``node.domain.quantity``); unknown where the
                   header does not establish it, or images differ
sequence           MR: T1, T2, T2*, PD, FLAIR, STIR, DWI, ADC, SWI, TOF, PERFUSION
contrast           whether a contrast agent was given
body_region        HEAD, NECK, CHEST, ABDOMEN ...: every one that the headers name
road, peer         how and from which configured peer the newest instance came
calling_ae_title,
called_ae_title    of the association, where it came by one
=================  ====================================================================

Source: PS3.3 C.7.6.1.1.2 (Image Type), C.7.6.4 (contrast/bolus).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from node.assemble.body_region import body_region_of
from node.assemble.gate import GateVerdict
from node.assemble.sequence import is_projection, sequence_of
from node.assemble.values import quantity_of
from node.domain.frames import Frame, Triple
from node.domain.header import Header, Missing, Value
from node.domain.instance import Origin
from node.domain.quantity import Quantity

DERIVED_ATTRIBUTES: Final = (
    "slices",
    "rows",
    "columns",
    "spacing_mm",
    "orientation",
    "is_localizer",
    "is_derived",
    "is_volume",
    "has_gaps",
    "quantity",
    "sequence",
    "contrast",
    "body_region",
    "transport",
    "peer",
    "calling_ae_title",
    "called_ae_title",
)

LOCALIZER_IMAGES = 30
LOCALIZER_ORIENTATIONS = 3  # axial, coronal, sagittal; projections turn in more steps
_ALONG_AN_AXIS = 0.8
_AXES = ("sagittal", "coronal", "axial")  # normal along x, y, z of LPS

_NO_AGENT = frozenset({"NO", "NONE", "N", "NO CONTRAST", "NON CONTRAST", "WITHOUT", "W/O"})
_WITHOUT = re.compile(
    r"\b(without|w o|wo|non|no|pre|ohne|sans)( (iv|contrast|gad|gd|km|kontrast|c))+\b"
    r"|\b(non ?contrast|unenhanced|nativ|native|precontrast|nect|ncct)\b"
)
_WITH = re.compile(
    r"\b(with|post|after|mit|avec) ?(iv |contrast|gad|gd|km\b|kontrast|and without)"
    r"|\b(postcontrast|ce|cect|t1c|t1ce|\+c|c\+|\+gd|gd\+|\+km)(?!\w)|(?<!\w)(\+c|\+gd|\+km)(?!\w)"
)


def derive(
    header: Header, frames: Sequence[Frame], verdict: GateVerdict, origin: Origin | None
) -> dict[str, Value]:
    """The derived attributes of a series, under exactly the names of ``DERIVED_ATTRIBUTES``.

    Args:
        header: What all instances of the series have in common.
        verdict: The gate's, over the same frames.
        origin: Of the newest instance; None where none was recorded.
    """
    return {
        "slices": (len(frames),) if frames else Missing("no images"),
        "rows": _common([frame.rows for frame in frames]),
        "columns": _common([frame.columns for frame in frames]),
        "spacing_mm": _spacing_mm(verdict),
        "orientation": _orientation(verdict),
        "is_localizer": _is_localizer(header, verdict),
        "is_derived": _is_derived(header),
        "is_volume": (verdict.stack is not None,),
        "has_gaps": _has_gaps(verdict),
        "quantity": _quantity(frames),
        "sequence": sequence_of(header),
        "contrast": contrast_of(header),
        "body_region": body_region_of(header),
        **_from_origin(origin),
    }


def plane_name(normal: Triple) -> str:
    """The anatomical plane with this normal, LPS."""
    cosines = np.abs(normal)
    axis = int(np.argmax(cosines))
    return _AXES[axis] if cosines[axis] >= _ALONG_AN_AXIS else "oblique"


def contrast_of(header: Header) -> Value:
    """Whether a contrast agent was given, by attributes first and then by names.

    An absent or empty agent is no denial: many scanners leave it empty whatever was injected.
    """
    recorded = _recorded_contrast(header)
    named = _named_contrast(header)
    if recorded is None and named is None:
        return Missing("neither ContrastBolusAgent nor a name tells")
    if recorded is not None and named is not None and recorded != named:
        return Missing("ContrastBolusAgent and the series' name contradict each other")
    return (bool(named) if recorded is None else recorded,)


def _recorded_contrast(header: Header) -> bool | None:
    agent = header.get("ContrastBolusAgent")
    if not isinstance(agent, Missing) and agent and str(agent[0]):
        return str(agent[0]).strip().upper() not in _NO_AGENT
    volume = header.get("ContrastBolusVolume")
    if not isinstance(volume, Missing) and volume and isinstance(volume[0], int | float):
        return True if volume[0] > 0 else None
    return None


def _named_contrast(header: Header) -> bool | None:
    text = " ".join(header.text(name) for name in ("SeriesDescription", "ProtocolName"))
    words = re.sub(r"[^a-z0-9+]+", " ", text.lower())
    without, given = bool(_WITHOUT.search(words)), bool(_WITH.search(words))
    return None if without == given else given


def _common(values: Sequence[int]) -> Value:
    if not values:
        return Missing("no images")
    return (values[0],) if len(set(values)) == 1 else Missing("different between images")


def _spacing_mm(verdict: GateVerdict) -> Value:
    if verdict.spacing_mm is None:
        return Missing(f"spacing cannot be measured: {_faults(verdict)}")
    return (round(max(verdict.spacing_mm), 6),)


def _faults(verdict: GateVerdict) -> str:
    codes = dict.fromkeys(finding.code.value.replace("_", " ") for finding in verdict.findings)
    return ", ".join(codes) or "no stack"


def _orientation(verdict: GateVerdict) -> Value:
    if verdict.normal is None:
        return Missing("no common orientation")
    return (plane_name(verdict.normal),)


def _is_localizer(header: Header, verdict: GateVerdict) -> Value:
    image_type = header.get("ImageType")
    is_known = not isinstance(image_type, Missing) and bool(image_type)
    if is_known and any(str(value).upper() == "LOCALIZER" for value in _all(image_type)):
        return (True,)
    if (
        1 < verdict.orientations <= LOCALIZER_ORIENTATIONS
        and verdict.images <= LOCALIZER_IMAGES
        and not is_projection(header)
    ):
        return (True,)
    return (False,) if is_known else _why(image_type, "ImageType")


def _is_derived(header: Header) -> Value:
    image_type = header.get("ImageType")
    if isinstance(image_type, Missing) or not image_type:
        return _why(image_type, "ImageType")
    return (str(image_type[0]).upper() == "DERIVED",)


def _has_gaps(verdict: GateVerdict) -> Value:
    if verdict.has_gaps is None:
        return Missing("no stack of slices to look for gaps in")
    return (verdict.has_gaps,)


def _quantity(frames: Sequence[Frame]) -> Value:
    if not frames:
        return Missing("no images")
    found = quantity_of(frames)
    if found is None:
        return Missing("different between images")
    quantity, why = found
    if quantity is Quantity.UNSPECIFIED:
        return Missing(f"not established: {why or 'nothing in the header tells'}")
    return (quantity.value,)


def _from_origin(origin: Origin | None) -> dict[str, Value]:
    if origin is None:
        nowhere = Missing("no origin recorded")
        return dict.fromkeys(("transport", "peer", "calling_ae_title", "called_ae_title"), nowhere)
    no_association = Missing(f"came by {origin.transport.value}, without AE titles")
    return {
        "transport": (origin.transport.value,),
        "peer": (origin.peer,) if origin.peer else Missing("no configured peer sent it"),
        "calling_ae_title": (origin.calling_ae_title,)
        if origin.calling_ae_title
        else no_association,
        "called_ae_title": (origin.called_ae_title,) if origin.called_ae_title else no_association,
    }


def _why(value: Value, keyword: str) -> Missing:
    return Missing(f"{keyword}: {value.reason if isinstance(value, Missing) else 'empty'}")


def _all(value: Value) -> tuple[object, ...]:
    return () if isinstance(value, Missing) else value
