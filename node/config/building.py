"""From the keys of the file to the configuration: what has several spellings or a computed default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from node.config.reading import read_secret
from node.config.values import NOT_EMPTY, FileKeys, NodeConfig, Sections, without_password
from node.domain.peers import NO_AE_TITLE, is_ae_title
from node.domain.settings import Mistake

_DATABASES = ("sqlite:///", "postgresql+psycopg://")


def build(
    keys: FileKeys, environ: Mapping[str, str], base: Path, mistakes: list[Mistake]
) -> NodeConfig:
    """The whole configuration; good only where no mistake is added.

    Args:
        base: The folder that relative paths start from.
    """
    _check_ae_titles(keys, mistakes)
    sections = {each.name: getattr(keys, each.name) for each in fields(Sections)}
    sections["data_dir"] = (base / keys.data_dir).absolute()
    return NodeConfig(
        **sections,
        ae_titles=keys.all_ae_titles,
        database_url=_database_url(keys, environ, base, mistakes),
        weights_dir=keys.weights_dir or _shared_weights(environ),
        weights_mirror=_weights_mirror(keys.weights_mirror, base),
    )


def _check_ae_titles(keys: FileKeys, mistakes: list[Mistake]) -> None:
    if keys.ae_title is not None and keys.ae_titles is not None:
        mistakes.append(("ae_title", "ae_titles is given as well: keep one of the two"))
    if keys.ae_titles == ():
        mistakes.append(("ae_titles", NOT_EMPTY))
    titles = keys.all_ae_titles
    for index, title in enumerate(titles):
        path = f"ae_titles.{index}" if keys.ae_titles else "ae_title"
        if not is_ae_title(title):
            mistakes.append((path, NO_AE_TITLE))
        if title in titles[:index]:
            mistakes.append((path, f"{title} is given twice"))


def _database_url(
    keys: FileKeys, environ: Mapping[str, str], base: Path, mistakes: list[Mistake]
) -> str:
    sources = {"database_env": keys.database_env, "database_file": keys.database_file}
    url = keys.database
    if any(sources.values()):
        if url is not None:
            sentence = "database_env or database_file is given as well: keep one"
            mistakes.append(("database", sentence))
        secret = read_secret(sources, "database", "", environ, base, mistakes)
        url = secret.value if secret else None
    elif url is not None and without_password(url) != url:
        sentence = "holds a password: put the URL where database_env names it"
        mistakes.append(("database", sentence))
    if url is None:
        return f"sqlite:///{(base / keys.data_dir).absolute() / 'segnode.sqlite'}"
    if not url.startswith(_DATABASES):
        mistakes.append(("database", f"begins with {' or '.join(_DATABASES)}"))
    if url.startswith("sqlite:///"):
        return f"sqlite:///{(base / url.removeprefix('sqlite:///')).absolute()}"
    return url


def _shared_weights(environ: Mapping[str, str]) -> Path:
    shared = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(shared).absolute() / "segnode" / "weights"


def _weights_mirror(given: str | None, base: Path) -> str:
    if given is None or "://" in given:
        return given or ""
    return str((base / given).absolute())
