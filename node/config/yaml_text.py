"""YAML text to plain values, without the traps that change what an operator meant.

Only ``true`` and ``false`` are booleans, so ``BurnedInAnnotation: NO`` stays text; dates, times and
numbers with leading zeros stay text; a key given twice is a mistake instead of the last one winning.
This is the core schema of YAML 1.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

from node.domain.errors import ConfigInvalid

_RESOLVERS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    problem = f"{key_node.value} is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in _RESOLVERS:
    _characters = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _characters)


def read_yaml(text: str) -> dict[str, Any]:
    """The mapping that a YAML text stands for; an empty text is an empty mapping.

    Raises:
        ConfigInvalid: Not YAML, a key given twice, or no mapping.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
        json.dumps(content, skipkeys=True, default=str)  # fails where an anchor holds itself
    except yaml.YAMLError as error:
        raise ConfigInvalid([("", _sentence(error))]) from None
    except (RecursionError, ValueError):
        raise ConfigInvalid([("", "not valid YAML: a value cannot be read")]) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigInvalid([("", "the file must hold keys and values, such as data_dir: ./data")])
    return content


def _sentence(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not readable"
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}not valid YAML: {problem}"
