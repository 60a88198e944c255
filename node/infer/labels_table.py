"""The ``labels.csv`` of a model: what each label value means, in codes that others understand.

Columns: ``label_value,name,category,type,modifier,region,region_modifier,rgb``; a code is
``scheme:value:meaning``, a colour ``#RRGGBB``.

Source: PS3.3 C.8.20.4 (segment description), PS3.16 CID 244 (laterality).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from node.domain.segment import Code, Segment, name_words
from node.infer.runner_part import Mistake

CODE_COLUMNS = ("category", "type", "modifier", "region", "region_modifier")
COLUMNS = ("label_value", "name", *CODE_COLUMNS, "rgb")

_LABEL_LIMIT = 64  # Segment Label is an LO (PS3.5 6.2)
_LABEL_VALUE_LIMIT = 65535
_COLOUR = re.compile(r"#([0-9A-Fa-f]{2})([0-9A-Fa-f]{2})([0-9A-Fa-f]{2})")


def read_labels_table(path: Path, place: str) -> tuple[list[Segment], list[Mistake]]:
    """The segments of a table, and its mistakes as (``place: line n``, sentence)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            rows = [(f"{place}: line {reader.line_num}", row) for row in reader]
            header = tuple(reader.fieldnames or ())
    except OSError:
        return [], [(place, "is missing or cannot be read")]
    except (csv.Error, UnicodeDecodeError) as error:
        return [], [(place, str(error))]
    if header != COLUMNS:
        return [], [(place, f"the first line must be {','.join(COLUMNS)}")]
    if not rows:
        return [], [(place, "describes no label")]
    segments: list[Segment] = []
    mistakes: list[Mistake] = []
    taken: dict[object, int] = {}
    for where, row in rows:
        try:
            segment = _segment(row)
            _check(segment, taken)
        except ValueError as error:
            mistakes.append((where, str(error)))
        else:
            segments.append(segment)
    return segments, mistakes


def _segment(row: Mapping[str, str]) -> Segment:
    if "" in row:
        raise ValueError("has more cells than the first line")
    value = row["label_value"].strip()
    if not value.isdecimal() or not 1 <= int(value) <= _LABEL_VALUE_LIMIT:
        raise ValueError(f"label_value {value!r} is not a number from 1 to {_LABEL_VALUE_LIMIT}")
    if len(row["name"].strip()) > _LABEL_LIMIT:
        raise ValueError(f"the name exceeds {_LABEL_LIMIT} characters")
    colour = _COLOUR.fullmatch(row["rgb"].strip())
    if colour is None:
        raise ValueError(f"rgb {row['rgb']!r} is not #RRGGBB")
    category, kind = _code(row["category"]), _code(row["type"])
    if category is None or kind is None:
        raise ValueError("category and type are required")
    red, green, blue = (int(part, 16) for part in colour.groups())
    return Segment(
        label_value=int(value),
        name=row["name"].strip(),
        category=category,
        type=kind,
        modifier=_code(row["modifier"]),
        region=_code(row["region"]),
        region_modifier=_code(row["region_modifier"]),
        rgb=(red, green, blue),
    )


def _code(cell: str) -> Code | None:
    if not cell.strip():
        return None
    parts = [part.strip() for part in cell.split(":", 2)]
    if len(parts) != 3:
        raise ValueError(f"{cell!r} is not scheme:value:meaning")
    scheme, value, meaning = parts
    return Code(value, scheme, meaning)


def _check(segment: Segment, taken: dict[object, int]) -> None:
    """Refuse what a viewer or a reader of names could not tell apart.

    Args:
        taken: What the lines before have taken -> their label value; filled here.
    """
    value = segment.label_value
    if value in taken:
        raise ValueError(f"label_value {value} stands twice")
    words = ("name", name_words(segment.name))
    codes = ("codes", *((code.scheme, code.value) if code else None for code in segment.codes))
    if words in taken:
        raise ValueError(f"the name {segment.name!r} stands twice")
    if codes in taken:
        raise ValueError(f"has the same codes as label {taken[codes]}")
    # the category says neither what it is nor where
    meanings = [code.meaning for code in segment.codes[1:] if code is not None]
    said, coded = _sides(segment.name), _sides(" ".join(meanings))
    if said != coded:
        raise ValueError(f"the name says {_named(said)}, the codes say {_named(coded)}")
    taken.update(dict.fromkeys((value, words, codes), value))


def _sides(text: str) -> frozenset[str]:
    return frozenset({"left", "right"} & set(re.findall(r"[a-z]+", text.casefold())))


def _named(sides: frozenset[str]) -> str:
    return " and ".join(sorted(sides)) or "no side"
