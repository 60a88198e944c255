"""Words for what the gate finds: geometry, stored values, quantities, and what no patient has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.domain.quantity import Quantity
from node.domain.reasons import ReasonCode as Code

_SHORT_LIST = 12


def _number(count: int) -> str:
    return "two" if count == 2 else str(count)


def _no_position(attributes: Sequence[str], count: int, of: int) -> str:
    which = "no positions at all" if count == of else f"{count} of {of} images without a place"
    return f"{which}: {' and '.join(attributes)} absent or malformed"


def _orientations(sizes: Sequence[int], could_be_split: bool) -> str:
    listed = "/".join(map(str, sizes[:_SHORT_LIST]))
    split = ": could be split by Image Orientation (Patient)" if could_be_split else ""
    return f"{_number(len(sizes))} orientations in one series ({listed} images){split}"


def _same_position(each: int = 0, positions: int = 0, **facts: Any) -> str:
    if "most" in facts:
        return _crowded(**facts)
    if positions == 1:
        return f"{_number(each)} images at one position"
    text = f"{each * positions} images, {each} images at each of {positions} positions"
    if "phases" in facts:
        return f"{text}: could be split into {facts['phases']} phases by {facts['by']}"
    if "kinds" in facts:
        split = "could be split into " if facts.get("could_be_split") else ""
        return f"{text}: {split}{facts['kinds']} kinds of image by {facts['by']}"
    return text


def _crowded(most: int, at_slices: Sequence[int], of: int) -> str:
    where = ", ".join(map(str, at_slices[:_SHORT_LIST]))
    more = ", ..." if len(at_slices) > _SHORT_LIST else ""
    number = "two" if most == 2 else f"up to {most}"
    return f"{number} images at one position: at slice {where}{more} of {of}"


def _gap(missing: int = 0, after_slice: int = 0, more: int = 0, **measured: Any) -> str:
    if more:
        return f"{more} more gaps"
    slices = "slice" if missing == 1 else "slices"
    return f"gap: {missing} {slices} missing after slice {after_slice} ({_steps(**measured)})"


def _uneven(
    after_slices: Sequence[int] = (), worst: float = 0.0, worst_place: float = 0.0, **measured: Any
) -> str:
    if not after_slices:
        lies = f"a slice lies {worst_place:.2g} spacings from its place"
        return f"uneven spacing: small steps add up, {lies}"
    where = "/".join(map(str, after_slices))
    return f"uneven spacing after slice {where}: up to {worst:.1%} off ({_steps(**measured)})"


def _steps(steps_mm: Sequence[float] = (), step_mm: float = 0.0, elsewhere_mm: float = 0.0) -> str:
    if steps_mm:
        return f"steps {'/'.join(f'{step:.4g}' for step in steps_mm)} mm"
    return f"step {step_mm:.4g} mm, elsewhere {elsewhere_mm:.4g} mm"


# the first that the facts name
_BITS = {
    "samples": "Samples per Pixel {samples}, not one",
    "representation": "Pixel Representation {representation}, neither 0 nor 1",
    "high": "High Bit {high} where Bits Stored {stored} asks for {asked}",
    "stored": "Bits Stored {stored} in Bits Allocated {allocated}",
    "allocated": "Bits Allocated {allocated}, of which no volume is read",
}


def _bits_contradict(count: int = 0, of: int = 0, **bits: int) -> str:
    """Findings of one image say no count."""
    template = next(words for name, words in _BITS.items() if name in bits)
    said = template.format(**bits, asked=bits.get("stored", 0) - 1)
    return f"{said} in {count} of {of} images" if of else said


def _quantity(is_given: str, whys: Sequence[str] = ()) -> str:
    name = is_given.lower() if is_given == Quantity.UNSPECIFIED else is_given
    return f"{name} ({', '.join(whys)})" if whys else name


def _quantities(quantities: Sequence[tuple[str, str, int]]) -> str:
    named = ", ".join(
        f"{_quantity(what, [why] if why else ())} in {number}" for what, why, number in quantities
    )
    return f"images of different quantities: {named}"


_SUV_FAULTS = {
    "no_pet_image": "no image is of a PET class",
    "differ": "weight, dose or time of injection differ between images",
    "missing": "a fact is missing",
    "decay_s": "{0:.0f} s between injection and scan",
    "not_corrected": "Corrected Image lacks {0}",
    "decay_correction": "Decay Correction is neither START nor ADMIN",
    "isotopes": "{0} items in Radiopharmaceutical Information Sequence",
    "absent": "{0} absent or malformed",
    "start_differs": "the images do not agree on when the scan started",
    "start_unknown": (
        "Series Time is after Acquisition Time, and Frame Reference Time or Actual Frame Duration"
        " is absent"
    ),
}


def _suv(faults: Sequence[Sequence[Any]], takes: str = "", is_given: str = "") -> str:
    why = "; ".join(_suv_fault(*fault) for fault in faults)
    asked = f"the model takes {takes}, the series is {is_given}, and " if takes else ""
    return f"{asked}SUV cannot be computed: {why}"


def _suv_fault(kind: str, *about: Any) -> str:
    if kind == "impossible":
        name, value = about
        shown = value if isinstance(value, str) else f"{value:g}"
        return f"{name} {shown} is not possible"
    return _SUV_FAULTS[kind].format(*about)


TELLINGS: Mapping[Code, Any] = {
    Code.NO_IMAGES: "no images",
    Code.TOO_MANY_FRAMES: "Number of Frames is {frames}, at most {most} are read",
    Code.NO_FRAME_OF_REFERENCE: lambda count, of: (
        "no Frame of Reference" + ("" if count == of else f" in {count} of {of} images")
    ),
    Code.FRAMES_OF_REFERENCE_DIFFER: "{count} Frames of Reference: positions cannot be compared",
    Code.NO_POSITION: _no_position,
    Code.ORIENTATIONS_DIFFER: _orientations,
    Code.ORIENTATION_MALFORMED: (
        "Image Orientation (Patient) is not two unit vectors at right angles"
    ),
    Code.MATRIX_DIFFERS: lambda sizes: (
        "different numbers of rows and columns: " + ", ".join(f"{a} x {b}" for a, b in sizes)
    ),
    Code.NO_PIXEL_SPACING: "no Pixel Spacing in {count} of {of} images",
    Code.PIXEL_SPACING_MALFORMED: "Pixel Spacing malformed in {count} of {of} images",
    Code.PIXEL_SPACING_DIFFERS: lambda spacings_mm: (
        "different Pixel Spacing: " + ", ".join(f"{a:.4g} x {b:.4g} mm" for a, b in spacings_mm)
    ),
    Code.SAME_POSITION: _same_position,
    Code.GAP: _gap,
    Code.UNEVEN_SPACING: _uneven,
    Code.SHEAR: (
        "shear {degrees:.3g} degrees: slices drift sideways by {drift_pixels:.3g} pixels over the"
        " stack (gantry tilt)",
        "slices lie up to {drift_pixels:.3g} pixels beside each other",
    ),
    Code.ONE_SLICE: "one slice: not a volume",
    Code.TOO_SMALL: (
        "{pixels[0]} x {pixels[1]} pixels, the model needs {needed[0]} x {needed[1]}",
        "{slices} slices, the model needs {needed}",
    ),
    Code.SPACING_JITTER: (
        "spacing jitter {worst:.1%}: steps {low_mm:.4g} to {high_mm:.4g} mm, "
        "median {median_mm:.4g} mm"
    ),
    Code.PIXEL_BITS_ABSENT: (
        "{attribute} absent or malformed in {count} of {of} images",
        "{attribute} absent or malformed",
    ),
    Code.PIXEL_BITS_CONTRADICT: _bits_contradict,
    Code.PADDING_MALFORMED: ("{fault} in {count} of {of} images", "{fault}"),
    Code.RESCALE_ABSENT: "{attributes: and } absent or empty in {count} of {of} images",
    Code.RESCALE_MALFORMED: (
        "Rescale Slope or Intercept {is_too_large:too large for any number|malformed} in {count} of"
        " {of} images",
        "Rescale Slope or Intercept malformed in {count} of {of} images",
    ),
    Code.RESCALE_SLOPE_ZERO: "Rescale Slope 0 in {count} of {of} images",
    Code.MODALITY_LUT_MALFORMED: "{fault} in {count} of {of} images",
    Code.MODALITY_LUT_AND_RESCALE: (
        "Modality LUT Sequence beside Rescale Slope or Intercept in {count} of {of} images"
    ),
    Code.QUANTITY_DIFFERS: _quantities,
    Code.QUANTITY_NOT_TAKEN: lambda takes, **given: (
        f"the model takes {' or '.join(takes)}, the series is {_quantity(**given)}"
    ),
    Code.SUV_NOT_COMPUTABLE: _suv,
    Code.IMPLAUSIBLE_VOLUME: (
        "{what} {ml:.1f} ml, plausible is up to {high_ml:g} ml",
        "{what} {ml:.2f} ml, plausible is {low_ml:g} ml and more{is_cut: where the border cuts it|}",
    ),
    Code.IMPLAUSIBLE_EXTENT: "{what} is {edge_mm:.0f} mm long, plausible is up to {high_mm:g} mm",
    Code.IMPLAUSIBLE_RATIO: (
        "{what} is {value:.3g}, plausible is {low:g} to {high:g}",
        "{what} is {value:.3g}, plausible is {low:g} and more",
    ),
    Code.IMPLAUSIBLE_SIDES: "left {what} lies {beyond_mm:.0f} mm to the right of right {what}",
    Code.IMPLAUSIBLE_BORDER: (
        "{what} is cut by the side of the volume at {cut:.0%} of its largest section,"
        " plausible is up to {high:.0%}",
        "{what} {touches:touches the border of the volume|does not touch the border}",
    ),
    Code.IMPLAUSIBLE_SHARE: (
        "labels fill {share:.1%} of the volume, plausible is {low:.0%} to {high:.0%}"
    ),
}
