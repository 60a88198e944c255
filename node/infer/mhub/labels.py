"""Classes of a card as rows of ``labels.csv``.

MHub's segment ids are names (``LEFT_KIDNEY``) whose codes lie in MHub's own tables, not in the card.
Where a model that is already here has a label of the same name, its codes are taken; else the label
gets a private code, which ``models check`` lists until a person replaces it.
"""

from __future__ import annotations

import colorsys
import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from node.domain.segment import PRIVATE_SCHEME, Code, Segment
from node.infer.container.matching import Key, name_key
from node.infer.labels_table import CODE_COLUMNS, COLUMNS

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")

_GOLDEN = 0.618033988749895  # steps that never come back to a hue


def name_of(segment_id: str) -> str:
    """A segment id for people; a finding in an organ is written as MHub does (``LIVER+CYST``)."""
    organ, plus, finding = segment_id.partition("+")
    words = (f"{finding}_in_{organ}" if plus else organ).split("_")
    spelled = " ".join(word if any(c.isdigit() for c in word) else word.lower() for word in words)
    return (spelled[:1].upper() + spelled[1:])[:64].strip()


def draft_labels(
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
        name = name_of(segment_id)
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


def labels_csv(labels: Iterable[Segment]) -> str:
    """The text of a ``labels.csv``."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for label in labels:
        table.writerow(_row(label))
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


def _row(label: Segment) -> Mapping[str, object]:
    red, green, blue = label.rgb
    return {
        "label_value": label.label_value,
        "name": label.name,
        **{
            column: f"{code.scheme}:{code.value}:{code.meaning}" if code else ""
            for column, code in zip(CODE_COLUMNS, label.codes, strict=True)
        },
        "rgb": f"#{red:02X}{green:02X}{blue:02X}",
    }
