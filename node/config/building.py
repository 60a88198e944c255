"""From the keys of the file to the configuration: spellings, computed defaults, and what must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

from node.config.reading import STAND_IN, known_names, read_secret
from node.config.values import (
    NOT_EMPTY,
    SENDER,
    FileKeys,
    NodeConfig,
    Sections,
    without_password,
)
from node.domain.peers import NO_AE_TITLE, is_ae_title, is_loopback_host
from node.domain.settings import Mistake

Names = tuple[str, ...]

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
    shared = Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    mirror = keys.weights_mirror or ""
    return NodeConfig(
        **sections,
        ae_titles=keys.all_ae_titles,
        database_url=_database_url(keys, environ, base, mistakes),
        weights_dir=keys.weights_dir or shared.absolute() / "segnode" / "weights",
        weights_mirror=mirror if "://" in mirror or not mirror else str((base / mirror).absolute()),
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


def mistakes_between(keys: FileKeys, content: Mapping[str, Any]) -> Iterator[Mistake]:
    """Everything that is wrong only in combination.

    Args:
        content: The file, which also names what is wrong in other ways.
    """
    peers, destinations = _names(content, "peers"), _names(content, "destinations")
    yield from _references_of_peers(keys, destinations, _names(content, "web", "auth", "users"))
    yield from _references(keys, peers, destinations)
    yield from _binds(keys)
    yield from _used_names(keys, destinations)
    yield from _same_callers(keys)


def _names(content: Any, *keys: str) -> Names:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return tuple(str(name) for name in content) if isinstance(content, Mapping) else ()


def mistakes_of_forms(keys: FileKeys, forms: Mapping[str, bool]) -> Iterator[Mistake]:
    """Forms that there are not, or that a kind of destination cannot carry.

    Args:
        forms: Every form of a result, and whether it is DICOM.
    """
    for name, destination in keys.destinations.items():
        if not destination.forms:
            yield f"destinations.{name}.forms", "must not be empty: name at least one"
        for index, form in enumerate(destination.forms):
            path = f"destinations.{name}.forms.{index}"
            if form not in forms:
                yield path, f"no form {form}{known_names(tuple(forms))}"
            elif not forms[form] and not destination.carries_any_file:
                yield path, f"{form} is no DICOM object, and nothing else goes to this kind"
            elif form in destination.forms[:index]:
                yield path, f"{form} is named twice"


def _references_of_peers(keys: FileKeys, destinations: Names, users: Names) -> Iterator[Mistake]:
    for name, peer in keys.peers.items():
        if peer.reply_to and peer.reply_to not in destinations:
            sentence = f"no destination {peer.reply_to}{known_names(destinations)}"
            yield f"peers.{name}.reply_to", sentence
        if peer.http_user and peer.http_user not in users:
            sentence = f"no user {peer.http_user} in web.auth.users{known_names(users)}"
            yield f"peers.{name}.http_user", sentence


def _references(keys: FileKeys, peers: Names, destinations: Names) -> Iterator[Mistake]:
    for index, folder in enumerate(keys.folders):
        if folder.peer and folder.peer not in peers:
            yield f"folders.{index}.peer", f"no peer {folder.peer}{known_names(peers)}"
    for index, rule in enumerate(keys.rules):
        for place, target in enumerate(rule.send):
            if target != SENDER and target not in destinations:
                yield f"rules.{index}.send.{place}", _no_destination(target, peers, destinations)


def _no_destination(name: str, peers: Names, destinations: Names) -> str:
    if name in peers:
        return f"{name} is a peer: add a destination {{kind: dimse, peer: {name}}} and name that"
    return f"no destination {name}{known_names((*destinations, SENDER))}"


def _same_callers(keys: FileKeys) -> Iterator[Mistake]:
    """Two peers that one and the same caller could be."""
    for one, other in combinations(keys.peers.values(), 2):
        title = one.ae_title.strip()
        if title and title == other.ae_title.strip() and set(one.callers) & set(other.callers):
            sentence = f"has the AE title and an address of peer {one.name}: merge them"
            yield f"peers.{other.name}", sentence
        if one.http_user and one.http_user == other.http_user:
            sentence = f"has the HTTP user of peer {one.name}: give each its own"
            yield f"peers.{other.name}.http_user", sentence


def _binds(keys: FileKeys) -> Iterator[Mistake]:
    if not is_loopback_host(keys.dimse.host) and not any(p.ae_title for p in keys.peers.values()):
        sentence = (
            f"{keys.dimse.host} is open to the network and no peer may send: "
            "add peers with an ae_title, or bind 127.0.0.1"
        )
        yield "dimse.host", sentence
    if not is_loopback_host(keys.web.host) and keys.web.auth.kind == "none":
        sentence = (
            f"{keys.web.host} is open to the network without authentication: "
            "set web.auth.kind to basic or token, or bind 127.0.0.1"
        )
        yield "web.host", sentence
    tls_port = keys.dimse.tls.port if keys.dimse.tls else None
    if keys.web.port in (keys.dimse.port, tls_port):
        yield "web.port", f"{keys.web.port} is a port of dimse: choose another"


def _used_names(keys: FileKeys, destinations: Names) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, rule in enumerate(keys.rules):
        if rule.name in first and rule.name != STAND_IN:
            sentence = f"rules.{first[rule.name]} has this name already: give each rule its own"
            yield f"rules.{index}.name", sentence
        first.setdefault(rule.name, index)
    if SENDER in destinations:
        yield f"destinations.{SENDER}", "sender is the peer that sent: choose another name"
