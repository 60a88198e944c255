"""Quantities: what the numbers of an image measure, established from its header or not at all.

The table, by what the image is. "Type" is Rescale Type, or Modality LUT Type where a Modality LUT
stands in place of slope and intercept. A Real World Value Mapping counts for the unit of the
modality's numbers only where it maps stored values to the same numbers.

===========================  ====================================================================
CT, Enhanced CT,             type HU, OD, MGML, Z_EFF, ED, EDW, HU_MOD, PCT: that. Type absent: the
Legacy Converted CT          unit of a mapping; else HU, except in a multi-energy image. Type US or
                             any other, no transformation: unspecified. (C.8.2.1, C.8.15.3.10,
                             C.11.1.1.2: type may be left out where it is HU only)
... Image Type               EFF_ATOMIC_NUM, ELECTRON_DENSITY, MAT_FRACTIONAL, MAT_VALUE_BASED are
                             never HU; MAT_SPECIFIC and MAT_MODIFIED in HU are HU_MOD
MR, Enhanced MR,             arbitrary signal; ADC, phase and other maps where Image Type (Frame
Legacy Converted MR          Type), Complex Image Component or a mapping to a unit says so
PET, Legacy Converted PET    Units; GML is SUV after SUV Type, body weight where that is absent;
                             CM2ML is SUV by body surface (C.8.9.1.1.3)
Enhanced PET                 the unit of a mapping
any other class              type, or the unit of a mapping; else unspecified
===========================  ====================================================================

A Modality that contradicts the SOP class, or a type that contradicts a mapping or Image Type, leaves
the quantity unspecified.

Source: PS3.3 C.7.6.16.2.9 (Pixel Value Transformation), C.7.6.16.2.11 (Real World Value Mapping),
C.8.2.1 (CT Image, multi-energy), C.8.9.1 (PET Series), C.8.13.3 (MR frame types), C.8.15.3.10
(CT Pixel Value Transformation), C.11.1 (Modality LUT); PS3.16 CID 82 (units in UCUM).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Quantity(StrEnum):
    """What a number measures, as rules and model.yaml name it."""

    UNSPECIFIED = "UNSPECIFIED"
    # Rescale Type, PS3.3 C.11.1.1.2
    HU = "HU"  # Hounsfield units
    HU_MOD = "HU_MOD"  # Hounsfield units of an image whose materials were changed
    OD = "OD"  # thousandths of optical density
    MGML = "MGML"  # mg/ml of a material, iodine for instance
    Z_EFF = "Z_EFF"  # effective atomic number
    ED = "ED"  # electron density, 10^23 per ml
    EDW = "EDW"  # electron density relative to water
    PCT = "PCT"  # percent
    # MR
    MR_SIGNAL = "MR_SIGNAL"  # arbitrary
    MR_PHASE = "MR_PHASE"
    ADC = "ADC"  # apparent diffusion coefficient, in the writer's scale
    MR_MAP = "MR_MAP"  # any other computed map
    # Units of PET, PS3.3 C.8.9.1.1.3
    BQML = "BQML"
    CNTS = "CNTS"
    CPS = "CPS"
    PROPCNTS = "PROPCNTS"
    PROPCPS = "PROPCPS"
    PCNT = "PCNT"
    NONE = "NONE"
    CM2 = "CM2"
    MGMINML = "MGMINML"
    UMOLMINML = "UMOLMINML"
    MLMING = "MLMING"
    MLG = "MLG"
    PER_CM = "1CM"
    UMOLML = "UMOLML"
    MLMINML = "MLMINML"
    MLML = "MLML"
    STDDEV = "STDDEV"
    # standardized uptake value, by SUV Type (0054,1006)
    SUVBW = "SUVBW"
    SUVBSA = "SUVBSA"
    SUVLBM = "SUVLBM"
    SUVLBMJAMES128 = "SUVLBMJAMES128"
    SUVLBMJANMA = "SUVLBMJANMA"
    SUVIBW = "SUVIBW"


_IMAGE = "1.2.840.10008.5.1.4.1.1."
CT_CLASSES: Final = frozenset(f"{_IMAGE}{suffix}" for suffix in ("2", "2.1", "2.2"))
MR_CLASSES: Final = frozenset(f"{_IMAGE}{suffix}" for suffix in ("4", "4.1", "4.4"))
PET_CLASSES: Final = frozenset(f"{_IMAGE}{suffix}" for suffix in ("128", "128.1", "130"))

# slope and intercept are type 1: C.8.2.1, C.8.15.3.10, C.8.9.4, and the macro is mandatory in the
# enhanced and converted objects (A.38.1.4, A.56.1.3, A.70 to A.72)
RESCALE_IS_DUE: Final = CT_CLASSES | PET_CLASSES

_TYPES = frozenset(("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"))
_NEVER_HU = frozenset(("EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_FRACTIONAL", "MAT_VALUE_BASED"))
_HU_MODIFIED = frozenset(("MAT_SPECIFIC", "MAT_MODIFIED"))
_PHASE = frozenset(("P", "PHASE", "PHASE MAP", "PHASE_MAP"))
_MAPS = frozenset(("FA", "FRACT_ANISO", "RELATIVE_ANISO", "VOLUME_RATIO", "TEMPERATURE"))
_PET_UNITS = frozenset(
    (
        *("BQML", "CNTS", "CPS", "PROPCNTS", "PROPCPS", "PCNT", "NONE", "CM2", "MGMINML"),
        *("UMOLMINML", "MLMING", "MLG", "1CM", "UMOLML", "MLMINML", "MLML", "STDDEV"),
    )
)
_SUV_TYPES = frozenset(("BW", "LBM", "LBMJAMES128", "LBMJANMA", "IBW"))  # BSA is in CM2ML
_UCUM = {
    "[hnsf'u]": Quantity.HU,
    "mg/ml": Quantity.MGML,
    "bq/ml": Quantity.BQML,
    "{suvbw}g/ml": Quantity.SUVBW,
    "g/ml{suvbw}": Quantity.SUVBW,
    "{suvlbm}g/ml": Quantity.SUVLBM,
    "g/ml{suvlbm}": Quantity.SUVLBM,
    "{suvibw}g/ml": Quantity.SUVIBW,
    "g/ml{suvibw}": Quantity.SUVIBW,
    "{suvbsa}cm2/ml": Quantity.SUVBSA,
    "cm2/ml{suvbsa}": Quantity.SUVBSA,
    "%": Quantity.PCT,
}
_NO_UNIT = frozenset(("", "1", "{unity}", "{no units}", "no units", "us", "arb", "[arb'u]"))
_DIFFUSION = re.compile(r"[um]m2/s$|(10-?[36]\*?\.?)?mm2/s$")
_PRINTABLE = re.compile(r"[A-Za-z0-9_ /%.-]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the header of one frame says about the unit of its numbers.

    Args:
        image_type: Image Type, or Frame Type in enhanced objects.
        type_name: The attribute that ``type`` is the value of.
        type: Rescale Type or Modality LUT Type; empty where absent.
        is_transformed: Whether slope and intercept, or a Modality LUT, are there.
        mapped: Units (UCUM) of Real World Value Mappings that give the same numbers.
        mapped_otherwise: Units of those that give other numbers.
        complex_component: Complex Image Component (0008,9208).
    """

    sop_class_uid: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    type_name: str = "Rescale Type"
    type: str = ""
    is_transformed: bool = True
    is_multi_energy: bool = False
    units: str = ""
    suv_type: str = ""
    mapped: frozenset[str] = frozenset()
    mapped_otherwise: frozenset[str] = frozenset()
    complex_component: str = ""


@dataclass(frozen=True, slots=True)
class Established:
    """A quantity, and why it is not known where it is unspecified."""

    quantity: Quantity
    why: str = ""


def establish(said: Said) -> Established:
    """The quantity of a frame after the table above."""
    for classes, modality, judge in _BY_CLASS:
        if said.sop_class_uid not in classes:
            continue
        if said.modality and said.modality != modality:
            return _unknown(f"Modality {_shown(said.modality)} in an image of class {modality}")
        return judge(said)
    return _of_other(said)


def given_as(found: Quantity, wanted: Collection[Quantity]) -> Quantity | None:
    """As what a model gets numbers of a quantity: as they are, as SUV computed from them, or not."""
    if not wanted or found in wanted:
        return found
    if found is Quantity.BQML and Quantity.SUVBW in wanted:
        return Quantity.SUVBW
    return None


def _of_ct(said: Said) -> Established:
    if not said.is_transformed:
        return _unknown("no Rescale Slope and Intercept")
    types = {value.upper() for value in said.image_type}
    mapped = _mapped(said)
    if said.type:
        established = _of_type(said, mapped)
    elif len(mapped) > 1:
        established = _unknown("Real World Value Mappings of several units")
    elif mapped:
        established = mapped.pop()
    elif said.is_multi_energy:
        established = _unknown("no Rescale Type in a multi-energy image")
    else:
        established = Established(Quantity.HU)
    if established.quantity is Quantity.HU and types & _NEVER_HU:
        return _unknown(f"Image Type {sorted(types & _NEVER_HU)[0]}, which is not in HU")
    if established.quantity is Quantity.HU and types & _HU_MODIFIED:
        return Established(Quantity.HU_MOD)
    return established


def _of_type(said: Said, mapped: Collection[Established]) -> Established:
    named = said.type.upper()
    if named not in _TYPES:
        return _unknown(f"{said.type_name} {_shown(said.type)}")
    quantity = Quantity(named)
    if any(each.quantity is not quantity for each in mapped):
        return _unknown(f"{said.type_name} {named}, mapped to another unit as it is")
    return Established(quantity)


def _of_mr(said: Said) -> Established:
    if said.type.upper() in _TYPES - {"PCT"}:
        return _unknown(f"{said.type_name} {said.type.upper()} in an MR image")
    types = {value.upper() for value in said.image_type[2:]}
    units = {unit.lower() for unit in said.mapped | said.mapped_otherwise} - _NO_UNIT
    component = said.complex_component.upper()
    if "ADC" in types or any(_DIFFUSION.match(unit) for unit in units):
        return Established(Quantity.ADC)
    if component == "PHASE" or types & _PHASE:
        return Established(Quantity.MR_PHASE)
    if component in ("REAL", "IMAGINARY", "MIXED"):
        return Established(Quantity.MR_MAP)
    if units or types & _MAPS or any(re.search(r"[ _]MAP$", value) for value in types):
        return Established(Quantity.MR_MAP)
    return Established(Quantity.MR_SIGNAL)


def _of_pet(said: Said) -> Established:
    if not said.is_transformed:
        return _unknown("no Rescale Slope and Intercept")
    units, suv_type = said.units.upper(), said.suv_type.upper()
    if units == "GML" and (suv_type or "BW") in _SUV_TYPES:
        return Established(Quantity(f"SUV{suv_type or 'BW'}"))
    if units == "CM2ML" and suv_type in ("", "BSA"):
        return Established(Quantity.SUVBSA)
    if units in ("GML", "CM2ML"):
        return _unknown(f"Units {units} with SUV Type {_shown(said.suv_type)}")
    if units in _PET_UNITS:
        return Established(Quantity(units))
    if units:
        return _unknown(f"Units {_shown(said.units)}")
    mapped = _mapped(said)
    return mapped.pop() if len(mapped) == 1 else _unknown("no Units")


def _of_other(said: Said) -> Established:
    mapped = _mapped(said)
    if said.type:
        return _of_type(said, mapped)
    return mapped.pop() if len(mapped) == 1 else _unknown("nothing in the header tells")


_BY_CLASS = (
    (CT_CLASSES, "CT", _of_ct),
    (MR_CLASSES, "MR", _of_mr),
    (PET_CLASSES, "PT", _of_pet),
)


def _mapped(said: Said) -> set[Established]:
    """The quantities of mappings that give the same numbers."""
    units = {unit.lower() for unit in said.mapped} - _NO_UNIT
    return {
        Established(_UCUM[unit]) if unit in _UCUM else _unknown(f"mapped to {_shown(unit)}")
        for unit in units
    }


def _unknown(why: str) -> Established:
    return Established(Quantity.UNSPECIFIED, why)


def _shown(value: str) -> str:
    """A value of a header where it is short and plain: a sentence must not carry free text."""
    return value if _PRINTABLE.fullmatch(value) else "that no list of the Standard knows"
