"""What a ``meta.json`` says, as far as a draft uses it.

Cards are written by hand: dates, body parts and slice thicknesses come in many spellings, so that
what cannot be read is left out and named, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.domain.errors import ConfigInvalid

_MODALITIES = {"MRI": "MR", "PET": "PT"}
_MODALITY = re.compile(r"[A-Z]{2}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MILLIMETRES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:mm)?", re.IGNORECASE)
_WHOLE_BODY = "WHOLEBODY"
# no segmentation of slices can be made of these, or comes out of the input as it went in
_NO_SERIES = frozenset({"SM", "CR", "DX", "SEG"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CardInput:
    """One input.

    Args:
        modalities: Defined terms of Modality (0008,0060).
        body_part: As in Body Part Examined (0018,0015); empty: any, or not said.
        thickness_mm: Of the slices that the model was made for; None: not said.
        contrast: True or False where the card allows only that; None: either, or not said.
    """

    label: str
    description: str
    file_format: str
    modalities: tuple[str, ...]
    body_part: str
    thickness_mm: float | None
    contrast: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One model as its card describes it.

    Args:
        classes: Segment ids in the order of their values, background left out.
        texts: Part of the card (``use``, ``training`` ...) -> its text.
        references: (label, address) of what it cites.
    """

    name: str
    version: str
    title: str
    description: str
    inputs: tuple[CardInput, ...]
    classes: tuple[str, ...]
    architecture: str
    code_licence: str
    weights_licence: str
    cite: str
    texts: Mapping[str, str]
    references: tuple[tuple[str, str], ...]

    @property
    def forbids_commercial_use(self) -> bool:
        """Whether the licence of the weights says non-commercial, or says nothing."""
        words = re.split(r"[^A-Z]+", self.weights_licence.upper())
        return "NC" in words or not self.weights_licence or self.weights_licence.upper() == "N/A"


def read_card(meta: Mapping[str, Any]) -> Card:
    """The content of a ``meta.json``.

    Raises:
        ConfigInvalid: It is no card, or not of a model that segments series.
    """
    mistakes: list[tuple[str, str]] = []
    name = str(meta.get("name", ""))
    if not _NAME.fullmatch(name):
        mistakes.append(("name", f"{name!r} is no name of a model: lower case, digits and _"))
    summary, details = _part(meta, "summary"), _part(meta, "details")
    inputs = tuple(_input(item) for item in _items(summary, "inputs"))
    classes = _classes(_items(summary, "outputs"))
    if not inputs:
        mistakes.append(("summary.inputs", "names no input"))
    if not classes:
        mistakes.append(
            ("summary.outputs", "names no classes of a segmentation, the output that segnode takes")
        )
    for each in inputs:
        odd = sorted(_NO_SERIES.intersection(each.modalities))
        if odd or not each.modalities:
            what = ", ".join(odd) or "no modality"
            mistakes.append(("summary.inputs", f"{what}: segnode gives image series to models"))
    if mistakes:
        raise ConfigInvalid([(f"meta.json: {where}", text) for where, text in mistakes])
    licence = _part(details, "license")
    info = _part(meta, "info")
    return Card(
        name=name,
        version=_text(details, "version") or "0",
        title=_text(meta, "title") or name,
        description=_text(summary, "description"),
        inputs=inputs,
        classes=classes,
        architecture=_text(_part(summary, "model"), "architecture"),
        code_licence=_text(licence, "code"),
        weights_licence=_text(licence, "weights"),
        cite=_text(details, "cite"),
        texts={key: _text(_part(info, key), "text") for key in info},
        references=tuple(
            (_text(item, "title"), _text(item, "uri")) for item in _items(details, "publications")
        ),
    )


def _input(item: Mapping[str, Any]) -> CardInput:
    spelled = re.split(r"[^A-Z]+", _text(item, "modality").upper())
    modalities = (_MODALITIES.get(word, word) for word in spelled)
    body_part = re.sub(r"[^A-Z]", "", _text(item, "bodypartexamined").upper())
    thickness = _MILLIMETRES.fullmatch(_text(item, "slicethickness"))
    with_contrast, without = item.get("contrast"), item.get("non-contrast", item.get("noncontrast"))
    return CardInput(
        label=_text(item, "label"),
        description=_text(item, "description"),
        file_format=_text(item, "format").upper() or "DICOM",
        modalities=tuple(word for word in modalities if _MODALITY.fullmatch(word) or word == "SEG"),
        body_part="" if body_part == _WHOLE_BODY else body_part[:16],
        thickness_mm=float(thickness.group(1)) if thickness else None,
        contrast=bool(with_contrast) if bool(with_contrast) != bool(without) else None,
    )


def _classes(outputs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Segment ids of all segmentations; one that stands twice is one structure."""
    found = [
        str(each)
        for output in outputs
        if output.get("type") == "Segmentation"
        for each in output.get("classes") or []
    ]
    return tuple(dict.fromkeys(each for each in found if each.upper() != "BACKGROUND"))


def _part(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = holder.get(key)
    return part if isinstance(part, Mapping) else {}


def _items(holder: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = holder.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _text(holder: Mapping[str, Any], key: str) -> str:
    return " ".join(str(holder.get(key) or "").split())
