"""Where the files of a role go below the input folder of a container: templates, and what is wrong.

Folders come from UIDs, roles and fixed words, so that no name, ID or date of a patient can reach a
log through a path.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

FIELDS = ("StudyInstanceUID", "SeriesInstanceUID", "role")


def layout_mistakes(layout: Mapping[str, str], roles: Collection[str]) -> list[tuple[str, str]]:
    """What is wrong with layout templates, as (role, sentence)."""
    mistakes = [(role, "is no input of this model") for role in layout if role not in roles]
    for role, template in layout.items():
        try:
            fields = {
                name for _, name, _, _ in string.Formatter().parse(template) if name is not None
            }
        except ValueError:
            mistakes.append((role, f"{template!r} has a brace without its partner"))
            continue
        unknown = sorted(fields - set(FIELDS))
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            named = ", ".join(f"{{{name}}}" for name in unknown)
            mistakes.append((role, f"{named} is not one of {known}; a fixed word serves as well"))
        path = PurePosixPath(template)
        if path.is_absolute() or ".." in path.parts:
            mistakes.append((role, f"{template!r} leaves the input folder"))
    if not mistakes:
        mistakes += _shared_folders(layout, roles)
    return mistakes


def default_template(role: str, roles: Collection[str]) -> str:
    """A flat folder for the only input, a folder per role for several."""
    return "." if set(roles) == {role} else "{role}"


def _shared_folders(layout: Mapping[str, str], roles: Collection[str]) -> list[tuple[str, str]]:
    """Roles whose counted names would meet in one folder."""
    taken: dict[str, str] = {}
    mistakes = []
    for role in roles:
        template = layout.get(role, default_template(role, roles))
        place = str(PurePosixPath(template.replace("{role}", role)))
        if place in taken and "{SeriesInstanceUID}" not in place:
            mistakes.append((role, f"shares its folder with {taken[place]}"))
        taken[place] = role
    return mistakes
