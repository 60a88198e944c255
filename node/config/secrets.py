"""Secrets: named in the file, kept in the environment or in files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from node.domain.settings import Mistake, Secret


def read_secret(
    named: Mapping[str, str | None],
    word: str,
    path: str,
    environ: Mapping[str, str],
    base: Path,
    mistakes: list[Mistake],
) -> Secret | None:
    """The secret that ``<word>_env`` or ``<word>_file`` names; None, with a mistake, if it is not there.

    Args:
        named: The keys of the mapping that the file gives, such as ``password_env``.
    """
    at = f"{path}." if path else ""
    variable, file = named.get(f"{word}_env"), named.get(f"{word}_file")
    if (variable is None) == (file is None):
        mistakes.append((path or f"{word}_env", f"needs either {word}_env or {word}_file"))
        return None
    if variable is not None:
        return _of_variable(variable, f"{at}{word}_env", environ, mistakes)
    return _of_file(base / str(file), f"{at}{word}_file", mistakes)


def _of_variable(
    variable: str, path: str, environ: Mapping[str, str], mistakes: list[Mistake]
) -> Secret | None:
    if not environ.get(variable):
        mistakes.append((path, f"the environment variable {variable} is not set, or empty"))
        return None
    return Secret(source=f"env:{variable}", value=environ[variable])


def _of_file(file: Path, path: str, mistakes: list[Mistake]) -> Secret | None:
    try:
        value = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        mistakes.append((path, f"the file {file} cannot be read: {reason}"))
        return None
    if not value:
        mistakes.append((path, f"the file {file} is empty"))
        return None
    return Secret(source=f"file:{file}", value=value)
