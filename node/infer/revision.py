"""Revisions: what the code that makes labels says of itself.

A module that decides labels declares ``REVISION = n`` on a line of its own. The number goes into the
digest of every model that the module serves: when it is raised, results are made anew. A changed comment
or a faster loop with the same labels changes no digest. ``tests/infer/test_golden.py`` compares labels
of a fixed input with those of the recorded revision, and fails where labels changed and the number did not.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

_DECLARED = re.compile(r"^REVISION(?:: \S+)? = ([1-9][0-9]*)$", re.MULTILINE)


class NoRevision(LookupError):
    """A module is not there, or declares no revision."""


def revision_of(module: str) -> int:
    """The revision that a module declares; read from its source, since importing it may cost seconds.

    Raises:
        NoRevision: With one sentence.
    """
    declared = _DECLARED.search(source_of(module))
    if declared is None:
        raise NoRevision(f"{module} declares no REVISION")
    return int(declared[1])


def source_of(module: str) -> str:
    """The source of a module, found without importing it.

    Raises:
        NoRevision: There is no such module.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or not found.origin:
        raise NoRevision(f"there is no module {module}")
    return Path(found.origin).read_text(encoding="utf-8")
