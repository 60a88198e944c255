"""From the typed file to frozen values: paths made absolute, secrets read, names resolved."""

from __future__ import annotations

import string
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from node.config import schema
from node.config.mistakes import Mistake
from node.config.secrets import read_secret
from node.config.values import (
    AuthConfig,
    ClientAuthConfig,
    CompletionConfig,
    DestinationConfig,
    DicomwebDestinationConfig,
    DimseConfig,
    DimseDestinationConfig,
    FolderConfig,
    FolderDestinationConfig,
    KeepDays,
    NodeConfig,
    PeerConfig,
    RuleConfig,
    Secret,
    StorageConfig,
    WebConfig,
    WorkConfig,
    without_password,
)
from node.domain.job import Priority
from node.domain.peers import is_ae_title

LAYOUT_FIELDS = frozenset(
    {
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "Modality",
        "model",
        "output",
        "ext",
    }
)
_DATABASES = ("sqlite:///", "postgresql+psycopg://")


class Builder:
    """Makes the values of one file and collects what is wrong with them.

    Args:
        base: The folder that relative paths start from.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self.mistakes: list[Mistake] = []
        self._environ = environ
        self._base = base

    def node(self, keys: schema.NodeKeys) -> NodeConfig:
        """The whole configuration; good only while ``mistakes`` is empty."""
        ae_titles = self._ae_titles(keys)
        data_dir = self._path(keys.data_dir)
        return NodeConfig(
            ae_titles=ae_titles,
            dimse=DimseConfig(**keys.dimse.model_dump()),
            web=WebConfig(
                host=keys.web.host, port=keys.web.port, auth=self._auth(keys.web.auth, "web.auth")
            ),
            data_dir=data_dir,
            database_url=self._database_url(keys, data_dir),
            storage=_storage(keys.storage),
            peers={name: self._peer(name, each) for name, each in keys.peers.items()},
            destinations={
                name: self._destination(name, each, ae_titles[0])
                for name, each in keys.destinations.items()
            },
            folders=tuple(
                FolderConfig(
                    path=self._path(each.path), peer=each.peer or "", scan_s=float(each.scan_s)
                )
                for each in keys.folders
            ),
            completion=_completion(keys.completion),
            rules=tuple(_rule(each) for each in keys.rules),
            work=_work(keys.work),
            models_dirs=tuple(self._path(each) for each in keys.models_dirs),
            weights_dir=self._weights_dir(keys.weights_dir),
            weights_mirror=self._weights_mirror(keys.weights_mirror),
            accept_licences=tuple(keys.accept_licences),
        )

    def _refuse(self, path: str, sentence: str) -> None:
        self.mistakes.append((path, sentence))

    def _path(self, text: str) -> Path:
        return (self._base / text).absolute()

    def _weights_dir(self, given: str | None) -> Path:
        if given is not None:
            return self._path(given)
        shared = self._environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        return Path(shared).absolute() / "segnode" / "weights"

    def _weights_mirror(self, given: str | None) -> str:
        if given is None or "://" in given:
            return given or ""
        return str(self._path(given))

    def _ae_titles(self, keys: schema.NodeKeys) -> tuple[str, ...]:
        if keys.ae_title is not None and keys.ae_titles is not None:
            self._refuse("ae_title", "ae_titles is given as well: keep one of the two")
        one = [keys.ae_title] if keys.ae_title is not None else ["SEGNODE"]
        titles = tuple(title.strip() for title in (keys.ae_titles or one))
        for index, title in enumerate(titles):
            path = f"ae_titles.{index}" if keys.ae_titles else "ae_title"
            self._check_ae_title(title, path)
            if title in titles[:index]:
                self._refuse(path, f"{title} is given twice")
        return titles

    def _check_ae_title(self, title: str, path: str) -> None:
        if not is_ae_title(title):
            self._refuse(path, "an AE title has 1 to 16 printable characters and no backslash")

    def _database_url(self, keys: schema.NodeKeys, data_dir: Path) -> str:
        sources = {"database_env": keys.database_env, "database_file": keys.database_file}
        url = keys.database
        if any(sources.values()):
            if url is not None:
                self._refuse("database", "database_env or database_file is given as well: keep one")
            secret = read_secret(sources, "database", "", self._environ, self._base, self.mistakes)
            url = secret.value if secret else None
        elif url is not None and without_password(url) != url:
            self._refuse("database", "holds a password: put the URL where database_env names it")
        if url is None:
            return f"sqlite:///{data_dir / 'segnode.sqlite'}"
        if not url.startswith(_DATABASES):
            self._refuse("database", f"begins with {' or '.join(_DATABASES)}")
        if url.startswith("sqlite:///"):
            return f"sqlite:///{self._path(url.removeprefix('sqlite:///'))}"
        return url

    def _auth(self, keys: schema.AuthKeys, path: str) -> AuthConfig:
        if keys.kind == "none":
            if keys.users:
                self._refuse(
                    f"{path}.users", "has users but kind is none: say kind: basic or token"
                )
            return AuthConfig()
        if not keys.users:
            self._refuse(f"{path}.users", "required: name at least one user")
        word = "password" if keys.kind == "basic" else "token"
        users = {
            name: self._secret(each, word, f"{path}.users.{name}")
            for name, each in keys.users.items()
        }
        values = [secret.value for secret in users.values() if secret]
        if keys.kind == "token" and len(set(values)) < len(values):
            self._refuse(
                f"{path}.users", "two users have the same token: nobody could tell them apart"
            )
        return AuthConfig(kind=keys.kind, users={n: s for n, s in users.items() if s})

    def _secret(self, keys: schema.UserKeys, word: str, path: str) -> Secret | None:
        named = keys.model_dump(include=set(schema.UserKeys.model_fields))
        for key, value in named.items():
            if value is not None and not key.startswith(word):
                self._refuse(
                    f"{path}.{key}", f"kind asks for a {word}: use {word}_env or {word}_file"
                )
                return None
        return read_secret(named, word, path, self._environ, self._base, self.mistakes)

    def _peer(self, name: str, keys: schema.PeerKeys) -> PeerConfig:
        path = f"peers.{name}"
        if keys.ae_title is None and keys.http_user is None:
            self._refuse(path, "needs ae_title (DIMSE) or http_user (HTTP) to be told from others")
        if keys.ae_title is not None:
            self._check_ae_title(keys.ae_title.strip(), f"{path}.ae_title")
            if keys.host is None and not keys.allow_from:
                self._refuse(path, "needs host or allow_from: an AE title alone proves nothing")
        networks = tuple(
            entry
            for index, entry in enumerate(keys.allow_from)
            if self._is_address(entry, f"{path}.allow_from.{index}")
        )
        title = (keys.ae_title or "").strip()
        return PeerConfig(
            name=name,
            ae_title=title if is_ae_title(title) else "",
            host=keys.host or "",
            port=keys.port,
            allow_from=networks,
            http_user=keys.http_user or "",
            reply_to=keys.reply_to or "",
        )

    def _is_address(self, entry: str, path: str) -> bool:
        """Whether ``allow_from`` can hold it: an address, a network, or a host name."""
        looks_like_name = "/" not in entry and any(c.isalpha() for c in entry) and ":" not in entry
        if looks_like_name:
            return True
        try:
            ip_network(entry, strict=True)
        except ValueError:
            self._refuse(path, f"{entry} is no address and no network such as 10.0.0.0/24")
            return False
        return True

    def _destination(self, name: str, keys: Any, calling_ae_title: str) -> DestinationConfig:
        path = f"destinations.{name}"
        if isinstance(keys, schema.DimseDestinationKeys):
            if keys.calling_ae_title is not None:
                self._check_ae_title(keys.calling_ae_title, f"{path}.calling_ae_title")
            return DimseDestinationConfig(
                name=name,
                peer=keys.peer,
                calling_ae_title=keys.calling_ae_title or calling_ae_title,
                connect_timeout_s=float(keys.connect_timeout_s),
                negotiate_timeout_s=float(keys.negotiate_timeout_s),
                answer_timeout_s=float(keys.answer_timeout_s),
            )
        if isinstance(keys, schema.DicomwebDestinationKeys):
            return DicomwebDestinationConfig(
                name=name,
                url=self._url(keys.url, path),
                auth=self._client_auth(keys.auth, f"{path}.auth"),
                ca_file=self._path(keys.ca_file) if keys.ca_file else None,
                connect_timeout_s=float(keys.connect_timeout_s),
                answer_timeout_s=float(keys.answer_timeout_s),
            )
        self._check_layout(keys.layout, f"{path}.layout")
        return FolderDestinationConfig(name=name, path=self._path(keys.path), layout=keys.layout)

    def _url(self, url: str, path: str) -> str:
        try:
            parts = urlsplit(url)
            is_url = bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            self._refuse(f"{path}.url", "is no URL with a host, and a port below 65536")
        elif without_password(url) != url:
            self._refuse(f"{path}.url", "holds a password: use auth with password_env")
        return url.rstrip("/")

    def _client_auth(
        self, keys: schema.ClientAuthKeys | None, path: str
    ) -> ClientAuthConfig | None:
        if keys is None or keys.kind == "none":
            return None
        if keys.kind == "basic" and keys.user is None:
            self._refuse(f"{path}.user", "required for kind basic")
        secret = self._secret(keys, "password" if keys.kind == "basic" else "token", path)
        if secret is None:
            return None
        return ClientAuthConfig(kind=keys.kind, user=keys.user or "", secret=secret)

    def _check_layout(self, layout: str, path: str) -> None:
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(layout)} - {None}
        except ValueError:
            self._refuse(path, "a brace is not closed")
            return
        if unknown := sorted(str(field) for field in fields - LAYOUT_FIELDS):
            known = ", ".join(sorted(LAYOUT_FIELDS))
            self._refuse(path, f"unknown field {{{unknown[0]}}}; known are {known}")
        if any(part in ("", ".", "..") for part in layout.split("/")):
            self._refuse(path, "must be a relative path without empty parts, . and ..")


def is_loopback_host(host: str) -> bool:
    """Whether only this machine can reach a server bound to this host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _storage(keys: schema.StorageKeys) -> StorageConfig:
    days = keys.keep_days
    return StorageConfig(
        reserve_gb=float(keys.reserve_gb),
        max_used_percent=float(keys.max_used_percent),
        keep_days=KeepDays(
            done=float(days.done),
            unmatched=float(days.unmatched),
            parked=float(days.parked),
            quarantine=float(days.quarantine),
            results=float(days.results),
        ),
        quarantine_max_gb=float(keys.quarantine_max_gb),
        duplicates=keys.duplicates,
    )


def _completion(keys: schema.CompletionKeys) -> CompletionConfig:
    return CompletionConfig(
        release_settle_s=float(keys.release_settle_s),
        quiet_s=float(keys.quiet_s),
        quiet_max_s=float(keys.quiet_max_s),
        study_wait_s=float(keys.study_wait_s),
        give_up_s=float(keys.give_up_s),
        on_give_up=keys.on_give_up,
        on_refused=keys.on_refused,
        late=keys.late,
    )


def _work(keys: schema.WorkKeys) -> WorkConfig:
    return WorkConfig(
        devices=tuple(keys.devices),
        deadline_s=float(keys.deadline_s),
        idle_unload_s=float(keys.idle_unload_s),
        attempts=keys.attempts,
        on_implausible=keys.on_implausible,
    )


def _rule(keys: schema.RuleKeys) -> RuleConfig:
    return RuleConfig(
        name=keys.name,
        when=keys.when,
        study=keys.study,
        run=keys.run,
        send=tuple(dict.fromkeys(keys.send)),
        priority=Priority[keys.priority.upper()],
        parameters=dict(keys.parameters),
        deadline_s=None if keys.deadline_s is None else float(keys.deadline_s),
    )
