"""Sequence: what an MR series shows (T1, T2, FLAIR ...), said only where the headers agree.

In this order: what the Standard made for it (Acquisition Contrast, Image Type, diffusion
attributes), then names given by people, then physics (echo, repetition and inversion times). Names
and physics that contradict each other give *unknown*: a wrong contrast in a model is worse than a
series that waits for a better rule. So does an angiogram or a projection, whatever its times say: its
vessels are bright and its background is saturated, which is no T1 to a model of tissue.

Source: PS3.3 C.8.13.3 (Acquisition Contrast, Time of Flight Contrast), C.8.3.1 (MR image: times in
milliseconds, Angio Flag, Image Type value 3 of angiograms and projections).
"""

from __future__ import annotations

import re
import unicodedata

from node.domain.derived.attribute import DerivedAttribute, Kind
from node.domain.header import Header, Missing, Value

NOT_MR = Missing("not an MR series")
UNDECIDED = Missing("neither names nor times tell the sequence")

_ACQUISITION_CONTRAST = {
    "DIFFUSION": "DWI",
    "FLUID_ATTENUATED": "FLAIR",
    "PERFUSION": "PERFUSION",
    "PROTON_DENSITY": "PD",
    "STIR": "STIR",
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
    "TOF": "TOF",
}
_IMAGE_TYPE = {
    "ADC": "ADC",
    "TRACEW": "DWI",
    "DIFFUSION": "DWI",
    "PERFUSION": "PERFUSION",
    "SWI": "SWI",
    "TOF": "TOF",
}

_PROJECTIONS = frozenset(("PROJECTION IMAGE", "PROJECTION", "MIP", "MAXIMUM", "MINIP", "MINIMUM"))
_ANGIO_TYPES = frozenset(("ANGIO", "ANGIO_TIME", "VELOCITY", "FLOW_ENCODED", "PCA", "MRA"))
_FLOW_ATTRIBUTES = ("TimeOfFlightContrast", "PhaseContrast")
# English, German, French, Italian, Spanish, Portuguese; sequences of GE, Philips, Siemens, Canon
_ANGIO_NAMES = re.compile(
    r"\b(mr[av]s?|ce ?mr[av]|[23]d ?mr[av]|angio(?![ml])\w*|\w+angio(gra\w*|gram)?|arteriogra\w*|venogra\w*"
    r"|phlebo\w*|flebo\w*|willis|time ?of ?flight|[23]?d?tof[23]?d?|phase contrast|contraste de phase"
    r"|[23]d ?pca?|pca|inflow|in flow|inhance|tricks|twist|qiss|trance|time ?slip|gef(ae|a)?ss\w*)\b"
)
_TOF_NAME = re.compile(r"\b([23]?d? ?tof[23]?d?|time ?of ?flight|inflow|in flow)\b")
# which an angiogram is not
_TISSUE_CONTRASTS = frozenset(("T1", "T2", "T2*", "PD", "STIR", "FLAIR"))

_COMPUTED = re.compile(r"\b(map|maps|mapping|sub|subtraction|ratio|mip|minip|fused|phase|quant)\b")
_NAMES = (
    ("ADC", re.compile(r"\b(e?adc|apparent diffusion)\b")),
    ("DWI", re.compile(r"\b(dwi|diff|diffusion|trace|tracew|dti|b[01]000|b500)\b")),
    ("SWI", re.compile(r"\b(swi|swan|venobold|susceptibility)\b")),
    ("TOF", _TOF_NAME),
    ("STIR", re.compile(r"\b(stir|tirm)\b")),
    ("FLAIR", re.compile(r"\b(flair|dark ?fluid)\b")),
    ("T2*", re.compile(r"\b(t2 ?\*|t2 ?star|t2s)(?!\w)")),
    ("T1", re.compile(r"\b(t1w?|mp ?rage|bravo|tfl3d1)\b")),
    ("T2", re.compile(r"\bt2w?\b(?! ?(\*|star))")),
    ("PD", re.compile(r"\b(pdw?|proton density)\b")),
)
# a special name may stand beside the general one that it is a kind of
_KIND_OF = {"FLAIR": {"T2"}, "STIR": {"T2", "T1"}, "T2*": {"T2"}, "DWI": {"T2"}, "ADC": {"DWI"}}


def sequence_of(header: Header) -> Value:
    """The sequence of an MR series, or why it cannot be told."""
    if header.text("Modality").upper() != "MR":
        return NOT_MR
    sign = _angiogram(header)
    if sign:
        return _of_angiogram(header, sign)
    declared = _declared(header)
    if declared is not None:
        return (declared,)
    named = _named(header)
    if isinstance(named, Missing):
        return named
    timed = _timed(header)
    if named is None or timed is None:
        found = named or timed
        return (found,) if found else UNDECIDED
    if named == timed or timed in _KIND_OF.get(named, ()):
        return (named,)
    return Missing(f"names say {named}, echo and repetition time say {timed}")


def is_projection(header: Header) -> bool:
    """Whether Image Type says that the images are projections of a volume."""
    return not _PROJECTIONS.isdisjoint(_terms(header, "ImageType"))


def _angiogram(header: Header) -> str:
    """What says that the series shows vessels; empty where nothing does."""
    if "Y" in _terms(header, "AngioFlag"):
        return "Angio Flag"
    for keyword in _FLOW_ATTRIBUTES:
        if "YES" in _terms(header, keyword):
            return keyword
    if is_projection(header) or not _ANGIO_TYPES.isdisjoint(_terms(header, "ImageType")):
        return "Image Type"
    return "its name" if _ANGIO_NAMES.search(_words(header)) else ""


def _of_angiogram(header: Header, sign: str) -> Value:
    """TOF where a name or attribute says so of images that are no projections, else unknown."""
    if is_projection(header):
        return Missing(f"a projection image, by {sign}")
    declared = _declared(header)
    if declared is not None and declared not in _TISSUE_CONTRASTS:
        return (declared,)
    named = _named(header)
    if "YES" in _terms(header, "TimeOfFlightContrast") or named == "TOF":
        return ("TOF",)
    if named is not None and not isinstance(named, Missing) and named not in _TISSUE_CONTRASTS:
        return (named,)
    return Missing(f"an angiogram, by {sign}")


def _terms(header: Header, name: str) -> list[str]:
    return [str(value).strip().upper() for value in header.known(name)]


def _words(header: Header) -> str:
    """Series description and protocol name in lower case, marks as spaces, ä as a."""
    text = " ".join(header.text(name) for name in ("SeriesDescription", "ProtocolName"))
    plain = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return re.sub(r"[^a-z0-9*]+", " ", plain)


def _declared(header: Header) -> str | None:
    image_type = _terms(header, "ImageType")
    for word, sequence in _IMAGE_TYPE.items():
        if word in image_type:
            return sequence
    for value in _terms(header, "AcquisitionContrast"):
        if value in _ACQUISITION_CONTRAST:
            return _ACQUISITION_CONTRAST[value]
    b_value = _number(header, "DiffusionBValue")
    return "DWI" if b_value is not None and b_value > 0.0 else None


def _named(header: Header) -> str | Missing | None:
    """What series description and protocol name agree on; None where they name nothing."""
    words = _words(header)
    if _COMPUTED.search(words):
        return Missing("the name tells of a computed image, not of a sequence")
    found = [sequence for sequence, pattern in _NAMES if pattern.search(words)]
    general = {kind for sequence in found for kind in _KIND_OF.get(sequence, ())}
    if "FLAIR" in found and "T1" in found:
        return "T1" if "T2" not in found else Missing("names several sequences")
    found = [sequence for sequence in found if sequence not in general]
    if len(found) > 1:
        return Missing(f"names several sequences: {', '.join(found)}")
    return found[0] if found else None


def _timed(header: Header) -> str | None:
    """What echo, repetition and inversion times tell of a plain spin or gradient echo, in ms."""
    kinds = set(_terms(header, "ScanningSequence"))
    echo, repetition = _number(header, "EchoTime"), _number(header, "RepetitionTime")
    inversion = _number(header, "InversionTime") or 0.0
    if echo is None or repetition is None or echo <= 0.0 or repetition <= 0.0:
        return None
    if "EP" in kinds or "RM" in kinds:
        return None
    if "IR" in kinds or inversion > 0.0:
        return _inverted(echo, repetition, inversion)
    if kinds == {"SE"}:
        return _spin_echo(echo, repetition)
    spoiled = "SP" in _terms(header, "SequenceVariant")
    flip_degrees = _number(header, "FlipAngle") or 0.0
    if kinds == {"GR"} and spoiled and echo <= 10.0 and repetition <= 700.0 and flip_degrees >= 15:
        return "T1"
    return None


def _inverted(echo: float, repetition: float, inversion: float) -> str | None:
    if inversion >= 1500.0 and repetition >= 4000.0 and echo >= 70.0:
        return "FLAIR"
    if 80.0 <= inversion <= 250.0 and repetition >= 1500.0:
        return "STIR"
    return "T1" if 400.0 <= inversion <= 1300.0 and echo <= 10.0 else None


def _spin_echo(echo: float, repetition: float) -> str | None:
    if repetition <= 800.0 and echo <= 30.0:
        return "T1"
    if repetition < 2000.0:
        return None
    if echo >= 70.0:
        return "T2"
    return "PD" if echo <= 40.0 else None


def _number(header: Header, name: str) -> float | None:
    value = header.known(name)
    return float(value[0]) if len(value) == 1 and not isinstance(value[0], bool | str) else None


SEQUENCE = DerivedAttribute(
    name="sequence",
    kind=Kind.TEXT,
    values=(
        *("T1", "T2", "T2*", "PD", "FLAIR", "STIR"),
        *("DWI", "ADC", "SWI", "TOF", "PERFUSION"),
    ),
    meaning="the kind of MR weighting",
    of=lambda facts: sequence_of(facts.header),
)
