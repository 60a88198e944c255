"""The draft of a model folder and of a rule, from a card.

MHub's segment ids are names (``LEFT_KIDNEY``) whose codes lie in MHub's own tables, not in the card.
Where a model that is already here has a label of the same name, its codes are taken; else the label
gets a private code, which ``models check`` lists until a person replaces it.
"""

from __future__ import annotations

import colorsys
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from node.domain.segment import PRIVATE_SCHEME, Code, Segment
from node.infer.container.matching import Key, name_key
from node.infer.labels_table import CODE_COLUMNS, COLUMNS
from node.infer.mhub.card import Card, CardInput, read_card

REGISTRY = "mhubai"
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")

_GOLDEN = 0.618033988749895  # steps that never come back to a hue

_SEQUENCES = {"t1": "T1", "t2": "T2", "flair": "FLAIR", "adc": "ADC", "dwi": "DWI"}
_WORDS = {"MR": tuple(_SEQUENCES)}
_QUANTITIES = {"CT": "HU", "MR": "MR_SIGNAL"}
_NOT_SAID = "The card does not say."
_RESOURCES = {"deadline_s": 1800, "memory_gb": 16, "device": "auto"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model folder to be put right by a person.

    Args:
        files: Name -> text, of the folder ``name``.
        rule: YAML for the configuration.
        open_points: What to look at before it runs, one sentence each.
    """

    name: str
    files: Mapping[str, str]
    rule: str
    open_points: tuple[str, ...]


def draft_model(meta: Mapping[str, Any], known: Iterable[Segment]) -> Draft:
    """What a ``meta.json`` gives.

    Args:
        known: Labels of models that are here, whose codes may be taken.
    Raises:
        ConfigInvalid: It is no card, or not of a model that segments series.
    """
    card = read_card(meta)
    inputs = _roles(card.inputs)
    labels, private = _draft_labels(card.classes, known)
    return Draft(
        name=card.name,
        files={
            "model.yaml": _model_yaml(card, inputs),
            "labels.csv": _labels_csv(labels),
            "README.md": _readme(card),
        },
        rule=_rule(card, inputs),
        open_points=tuple(_open_points(card, inputs, private)),
    )


def _roles(inputs: Iterable[CardInput]) -> dict[str, CardInput]:
    """A role for each input: its sequence where its words tell one, else its modality."""
    roles: dict[str, CardInput] = {}
    for given in inputs:
        words = re.findall(r"[a-z0-9]+", f"{given.label} {given.description}".casefold())
        named = [word for word in _WORDS.get(given.modalities[0], ()) if word in words]
        role = named[0] if len(named) == 1 else given.modalities[0].lower()
        taken = sum(1 for other in roles if other.rstrip("0123456789") == role or other == role)
        roles[f"{role}_{taken + 1}" if taken else role] = given
    return roles


def _model_yaml(card: Card, inputs: Mapping[str, CardInput]) -> str:
    runner: dict[str, Any] = {
        "kind": "container",
        "entry": f"{REGISTRY}/{card.name}:latest",
        "licence": card.weights_licence or "unknown",
        "commercial_use": not card.forbids_commercial_use,
    }
    if len(inputs) > 1:
        runner["layout"] = {role: f"case/{role}" for role in inputs}
    body = {
        "name": card.name,
        "version": card.version[:64],
        "title": card.title,
        "series_description": card.title[:64].strip(),
        "research_use": True,
        "inputs": {
            role: {"accepts": {"Modality": _one_or_many(given.modalities)}, **_quantity(given)}
            for role, given in inputs.items()
        },
        "runner": runner,
        "resources": _RESOURCES,
        "outputs": ["labels"],
    }
    return f"# A draft from MHub's card; see docs/containers.md for every key.\n{_yaml(body)}"


def _quantity(given: CardInput) -> dict[str, Any]:
    """What its numbers measure, where the modality leaves no choice; PET has many units."""
    if not set(given.modalities) <= _QUANTITIES.keys():
        return {}
    return {"quantity": _one_or_many(tuple(_QUANTITIES[each] for each in given.modalities))}


def _rule(card: Card, inputs: Mapping[str, CardInput]) -> str:
    conditions = {role: _conditions(role, given) for role, given in inputs.items()}
    body: dict[str, Any] = {"name": card.title}
    if len(inputs) == 1:
        body["when"] = next(iter(conditions.values()))
    else:
        body["study"] = conditions
    body |= {"run": card.name, "send": ["sender"]}
    said = "".join(
        f"# {role}: the card names slices of {given.thickness_mm:g} mm;"
        " SliceThickness: {max: ...} keeps thicker ones out\n"
        for role, given in inputs.items()
        if given.thickness_mm is not None
    )
    return f"{said}{_yaml({'rules': [body]})}"


def _conditions(role: str, given: CardInput) -> dict[str, Any]:
    conditions: dict[str, Any] = {"Modality": _one_or_many(given.modalities)}
    if role in _SEQUENCES:
        conditions["sequence"] = _SEQUENCES[role]
    if given.body_part:
        conditions["BodyPartExamined"] = given.body_part
    if given.contrast is not None and given.modalities != ("PT",):
        conditions["contrast"] = given.contrast
    return conditions


def _readme(card: Card) -> str:
    references = "".join(f"\n- {title}: {uri}" for title, uri in card.references if title or uri)
    inputs = "".join(
        f"\n- {each.label} ({', '.join(each.modalities)}): {each.description or _NOT_SAID}"
        for each in card.inputs
    )
    evaluation = [card.texts.get(key, "") for key in ("analyses", "evaluation")]
    training = card.texts.get("training", "")
    return (
        f"# {card.title}\n\n{card.description}\n\n"
        f"## Intended use\n\n{card.texts.get('use') or _NOT_SAID}\n\nInputs:\n{inputs}\n\n"
        f"## How it works\n\n{card.architecture or _NOT_SAID}\n\n{training}\n\n"
        f"## Where it fails\n\n{card.texts.get('limitations') or _NOT_SAID}\n\n"
        + "\n\n".join(text for text in evaluation if text)
        + f"\n\n## Licence\n\nCode: {card.code_licence or _NOT_SAID} Weights:"
        f" {card.weights_licence or _NOT_SAID}\n\n{card.cite}\n{references}\n"
    )


def _open_points(card: Card, inputs: Mapping[str, CardInput], private: list[str]) -> Iterable[str]:
    yield (
        "runner.entry is a name that moves: after the pull, put the image's own digest into"
        " runner.image_id"
    )
    if len(inputs) > 1:
        yield (
            "runner.layout is a guess: compare it with the importer in the default workflow of the"
            " model's own repository"
        )
        yield f"the labels must lie on the grid of {next(iter(inputs))}, the first input"
    if private:
        yield (
            f"{len(private)} of {len(card.classes)} labels have a private code, such as"
            f" {private[0]!r}: put better ones into labels.csv"
        )
    if card.forbids_commercial_use:
        yield (
            f"the weights' licence ({card.weights_licence or 'not said'}) does not allow commercial"
            " use: accept_licences must name it before it runs"
        )
    for role, given in inputs.items():
        if given.file_format != "DICOM":
            yield f"the card's {role} is {given.file_format}, and the image gets DICOM files"
        if given.body_part:
            yield f"the rule asks for BodyPartExamined {given.body_part} ({role}): many series lack it"


def _one_or_many(values: tuple[str, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _yaml(body: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True, width=98)


def _name_of(segment_id: str) -> str:
    """A segment id for people; a finding in an organ is written as MHub does (``LIVER+CYST``)."""
    organ, plus, finding = segment_id.partition("+")
    words = (f"{finding}_in_{organ}" if plus else organ).split("_")
    spelled = " ".join(word if any(c.isdigit() for c in word) else word.lower() for word in words)
    return (spelled[:1].upper() + spelled[1:])[:64].strip()


def _draft_labels(
    classes: Sequence[str], known: Iterable[Segment]
) -> tuple[list[Segment], list[str]]:
    """Labels of a card's classes, numbered from 1, and the names of those with a private code.

    Args:
        known: Labels whose codes may be taken.
    """
    by_name: dict[Key, Segment] = {}
    for segment in known:
        if not segment.is_private:
            by_name.setdefault(name_key(segment.name), segment)
    labels: list[Segment] = []
    private: list[str] = []
    used: set[object] = set()
    for value, segment_id in enumerate(classes, 1):
        name = _name_of(segment_id)
        if any(label.name.casefold() == name.casefold() for label in labels):
            name = f"{name[:58]} {value}"
        found = by_name.get(name_key(name))
        if found is None or found.codes in used:
            private.append(name)
            labels.append(_private(value, name, segment_id))
        else:
            used.add(found.codes)
            labels.append(replace(found, label_value=value))
    return labels, private


def _labels_csv(labels: Iterable[Segment]) -> str:
    """The text of a ``labels.csv``."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for label in labels:
        red, green, blue = label.rgb
        codes = {
            column: f"{code.scheme}:{code.value}:{code.meaning}" if code else ""
            for column, code in zip(CODE_COLUMNS, label.codes, strict=True)
        }
        colour = f"#{red:02X}{green:02X}{blue:02X}"
        table.writerow(
            {"label_value": label.label_value, "name": label.name, **codes, "rgb": colour}
        )
    return text.getvalue()


def _private(value: int, name: str, segment_id: str) -> Segment:
    digest = hashlib.sha256(segment_id.encode()).hexdigest()
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN % 1, 0.6, 0.9)
    return Segment(
        label_value=value,
        name=name,
        category=ANATOMICAL_STRUCTURE,
        type=Code(f"mhub-{digest[:11]}", PRIVATE_SCHEME, name),
        rgb=(int(red * 255), int(green * 255), int(blue * 255)),
    )
