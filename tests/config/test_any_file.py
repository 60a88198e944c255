"""Whatever stands in the file, the answer is a configuration or a list of mistakes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from node.config import parse
from node.domain.errors import ConfigInvalid
from node.route.compiling import mistakes_in

NOTHING = (None, "", " ", [], [None], {})
NUMBERS = (0, -1, 10**30, 1.5, float("inf"), float("nan"), True)
NESTED = ({"x": 1}, {1: 2}, [[1]], [{"a": []}])
TEXTS = ("x", "0", "http://[", "sqlite:///", "a\x00b", "{", "10.0.0.0/99", "~nobody/x")
ODD: st.SearchStrategy[Any] = st.sampled_from([*NOTHING, *NUMBERS, *NESTED, *TEXTS])
WHOLE: dict[str, Any] = {
    "ae_titles": ["A", "B"],
    "dimse": {"host": "127.0.0.1", "port": 104},
    "web": {"host": "::1", "auth": {"kind": "basic", "users": {"u": {"password_env": "P"}}}},
    "database": "sqlite:///x.sqlite",
    "storage": {"keep_days": {"done": 0}, "reserve_gb": 1},
    "peers": {"P": {"ae_title": "X", "host": "h", "allow_from": ["10.0.0.1"], "http_user": "u"}},
    "destinations": {
        "d": {"kind": "dimse", "peer": "P"},
        "w": {"kind": "dicomweb", "url": "http://x", "auth": {"kind": "token", "token_env": "P"}},
        "f": {"kind": "folder", "path": "x", "layout": "{model}.{ext}"},
    },
    "folders": [{"path": "x", "peer": "P"}],
    "completion": {"quiet_s": 5},
    "rules": [
        {"name": "a", "when": {"Modality": "CT", "any": [{"Rows": {"min": 1}}]}, "run": "m"},
        {"name": "b", "study": {"t": {"Modality": "MR", "prefer": [{"Rows": 5}]}}, "run": "m"},
    ],
    "work": {"devices": ["cpu"]},
    "models_dirs": ["m"],
}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, each in items:
        found.append((*at, key))
        if isinstance(each, dict | list):
            found += places(each, (*at, key))
    return found


def changed(value: Any, place: tuple[Any, ...], to: Any) -> Any:
    if not place:
        return to
    if isinstance(value, list):
        return [changed(v, place[1:], to) if i == place[0] else v for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    return {k: changed(v, place[1:], to) if k == place[0] else v for k, v in value.items()}


def test_the_whole_file_is_right_to_begin_with() -> None:
    text = yaml.safe_dump(WHOLE)

    assert len(parse(text, {"P": "s"}, base=Path("/b"), check_rules=mistakes_in).rules) == 2


def test_odd_text_in_any_place_is_taken_or_refused() -> None:
    for place in places(WHOLE):
        for odd in TEXTS:
            with contextlib.suppress(ConfigInvalid):
                parse(
                    yaml.dump(changed(WHOLE, place, odd), Dumper=yaml.CSafeDumper),
                    {"P": "s"},
                    base=Path("/b"),
                    check_rules=mistakes_in,
                )


@given(st.lists(st.tuples(st.sampled_from(places(WHOLE)), ODD), min_size=1, max_size=4))
def test_odd_values_never_raise_anything_but_a_list_of_mistakes(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    content = WHOLE
    for place, odd in changes:
        content = changed(content, place, odd)

    with contextlib.suppress(ConfigInvalid):
        parse(yaml.safe_dump(content), {"P": "s"}, base=Path("/b"), check_rules=mistakes_in)


@given(st.text(max_size=200))
def test_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        parse(text, {}, base=Path("/b"))


@given(st.sampled_from([place for place in places(WHOLE) if place != ("rules",)]))
def test_a_value_of_the_wrong_kind_is_reported_at_or_below_its_place(
    place: tuple[Any, ...],
) -> None:
    wrong = [[5.5]]
    content = changed(WHOLE, place, wrong)

    with pytest.raises(ConfigInvalid) as invalid:
        parse(yaml.safe_dump(content), {"P": "s"}, base=Path("/b"), check_rules=mistakes_in)

    path = ".".join(str(part) for part in place)
    assert any(found.startswith(path) for found, _ in invalid.value.mistakes)
