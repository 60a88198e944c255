"""The sections of the file and the whole configuration, as frozen values that cannot be built wrong.

Sections with a user of their own are defined there: ``completion`` is ``CompletionPolicy``, a destination
one of ``node.deliver.KINDS``, a notifier one of ``node.notify.KINDS``, a peer ``node.domain.peers.Peer``. Defaults stand once, in these values.
Seconds, gigabytes (1000^3 bytes) and days are in the names. Paths are absolute once they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from node.deliver.destination import Destination
from node.domain.access import Role
from node.domain.completion_policy import CompletionPolicy
from node.domain.limits import DimseLimits, IngestLimits, WebLimits
from node.domain.peers import Peer
from node.domain.settings import (
    Amount,
    Count,
    Mistake,
    Percent,
    Port,
    Seconds,
    Secret,
    Settings,
    Timeout,
    mistakes_of_secrets,
)
from node.domain.tls import ServerTls
from node.notify.notifier import Notifier

SENDER = "sender"
NOT_EMPTY = "must not be empty: name at least one"
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_MOST_RECEIVING = 4
_RULE_NAME = re.compile(r"\S(.{0,126}\S)?")

Parameter = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseTls(ServerTls):
    """TLS for the Storage SCP.

    Args:
        port: A port of its own, beside the one without TLS; None: the one port speaks TLS alone.
    """

    port: Port | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseConfig(Settings):
    """The Storage SCP.

    Args:
        processes: How many share the port; None: one for each two cores, four at most.
    """

    host: str = "127.0.0.1"
    port: Port = 11112
    max_associations: Count = 50
    max_associations_per_peer: Count = 20
    processes: Count | None = None
    limits: DimseLimits = field(default_factory=DimseLimits)
    tls: DimseTls | None = None

    @property
    def process_count(self) -> int:
        """``processes`` on this machine."""
        cores = len(os.sched_getaffinity(0))
        return self.processes or max(1, min(cores // 2, _MOST_RECEIVING))

    def mistakes(self) -> Iterator[Mistake]:
        if self.max_associations_per_peer > self.max_associations:
            sentence = f"above max_associations ({self.max_associations}): lower it"
            yield "max_associations_per_peer", sentence
        if self.tls is not None and self.tls.port == self.port:
            yield "tls.port", "the port without TLS: choose another, or leave it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Settings):
    """Somebody who may use HTTP; which secret it has follows from ``AuthConfig.kind``.

    Args:
        roles: What it may do; see ``node.domain.access``.
    """

    roles: tuple[Role, ...] = (Role.SENDER,)
    password: Secret | None = None
    token: Secret | None = None

    @property
    def secret(self) -> str:
        given = self.password or self.token
        return given.value if given else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig(Settings):
    """Who may use HTTP: for ``basic`` a password per user, for ``token`` a bearer token per user."""

    kind: Literal["none", "basic", "token"] = "none"
    users: Mapping[str, User] = field(default_factory=dict)

    def mistakes(self) -> Iterator[Mistake]:
        """Users without their secret, or who cannot be told apart."""
        if self.kind == "none":
            if self.users:
                yield "users", "has users but kind is none: say kind: basic or token"
            return
        if not self.users:
            yield "users", "required: name at least one user"
        for name, user in self.users.items():
            if not user.roles:
                yield f"users.{name}.roles", NOT_EMPTY
            for key, sentence in mistakes_of_secrets(self.kind, user.password, user.token):
                yield f"users.{name}.{key}".rstrip("."), sentence
        tokens = [user.token.value for user in self.users.values() if user.token]
        if len(set(tokens)) < len(tokens):
            yield "users", "two users have the same token: nobody could tell them apart"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig(Settings):
    """All HTTP: STOW-RS, the REST API, health.

    Args:
        hosts: Names by which the node is asked for, besides those of the loopback interface; empty: any,
            once somebody has to sign in.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    hosts: tuple[str, ...] = ()
    auth: AuthConfig = AuthConfig()
    limits: WebLimits = field(default_factory=WebLimits)
    tls: ServerTls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig(Settings):
    """What is taken, however it comes."""

    limits: IngestLimits = field(default_factory=IngestLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDays(Settings):
    """How long files are kept once nothing needs them; 0 is at once.

    Args:
        history: How long rows stay when no file of their study is left and nothing of it changes.
    """

    done: Amount = 7.0
    unmatched: Amount = 3.0
    parked: Amount = 30.0
    quarantine: Amount = 30.0
    results: Amount = 30.0
    history: Amount = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig(Settings):
    """How much disk the node may use, and for how long."""

    reserve_gb: Amount = 5.0
    max_used_percent: Percent = 85.0
    keep_days: KeepDays = KeepDays()
    quarantine_max_gb: Amount = 5.0
    duplicates: Literal["keep_first"] = "keep_first"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig(Settings):
    """One rule; its clauses as they stand in the file, judged and compiled by the route stage.

    Exactly one of ``when`` and ``study`` is given.

    Args:
        send: Destination names, and ``sender``; empty: the result stays in the node.
        deadline_s: Longest run of the model; None: the model's own, at most that of ``work``.
    """

    name: str
    when: Any = None
    study: Any = None
    run: str
    send: tuple[str, ...] = (SENDER,)
    priority: Literal["urgent", "normal", "background"] = "normal"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    deadline_s: Timeout | None = None

    def mistakes(self) -> Iterator[Mistake]:
        if not _RULE_NAME.fullmatch(self.name):
            yield "name", "takes text of 1 to 128 characters without spaces around it"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkConfig(Settings):
    """Where and for how long models run.

    Args:
        devices: ``auto`` alone, or ``cpu``, ``cuda``, ``cuda:1``; one that is named twice has two
            worker processes.
        workers: So many worker processes for each device.
        on_implausible: What becomes of a result that no patient can have.
        late_after_s: A job that is queued for longer is told as late.
    """

    devices: tuple[str, ...] = ("auto",)
    workers: Count = 1
    deadline_s: Timeout = 1800.0
    idle_unload_s: Seconds = 600.0
    attempts: Count = 3
    on_implausible: Literal["hold", "deliver"] = "hold"
    late_after_s: Timeout = 3600.0

    def mistakes(self) -> Iterator[Mistake]:
        if not self.devices:
            yield "devices", NOT_EMPTY
        for device in self.devices:
            if not DEVICE.fullmatch(device) and self.devices != ("auto",):
                yield "devices", f"takes [auto], or cpu, cuda, cuda:1 and so on, not {device!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig(Settings):
    """How much memory processes of the node may take; those of models say it themselves.

    Args:
        role_gb: Of each role, in 1024^3 bytes; 0: no bound.
    """

    role_gb: Amount = 2.0

    @property
    def role_bytes(self) -> int:
        """``role_gb`` in bytes."""
        return int(self.role_gb * 2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig(Settings):
    """A watched folder.

    Args:
        peer: Name of the peer that counts as the sender of what lies there; empty: nobody.
    """

    path: Path
    peer: str = ""
    scan_s: Timeout = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections(Settings):
    """Keys of the file that are used as they stand there.

    Args:
        models_dirs: Folders of models besides those that come with segnode.
        accept_licences: Licences without commercial use that somebody here has read and accepted.
    """

    dimse: DimseConfig = DimseConfig()
    web: WebConfig = WebConfig()
    ingest: IngestConfig = IngestConfig()
    data_dir: Path = Path("segnode-data")
    storage: StorageConfig = StorageConfig()
    peers: Mapping[str, Peer] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    notify: Mapping[str, Notifier] = field(default_factory=dict)
    folders: tuple[FolderConfig, ...] = ()
    completion: CompletionPolicy = field(default_factory=CompletionPolicy)
    rules: tuple[RuleConfig, ...] = ()
    work: WorkConfig = WorkConfig()
    memory: MemoryConfig = MemoryConfig()
    models_dirs: tuple[Path, ...] = ()
    accept_licences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKeys(Sections):
    """All keys of the file, those included that have several spellings or a computed default."""

    ae_title: str | None = None
    ae_titles: tuple[str, ...] | None = None
    database: str | None = None
    database_env: str | None = None
    database_file: str | None = None
    weights_dir: Path | None = None
    weights_mirror: str | None = None

    @property
    def all_ae_titles(self) -> tuple[str, ...]:
        """The names of this node, trimmed."""
        one = (self.ae_title or "SEGNODE",)
        return tuple(title.strip() for title in self.ae_titles or one)


@dataclass(frozen=True, kw_only=True)  # without slots: it keeps its digest
class NodeConfig(Sections):
    """The whole configuration.

    Args:
        ae_titles: Names this node answers to; the first is the one it calls others with.
        weights_dir: Where ``models pull`` puts files and workers look for them.
        weights_mirror: A folder or URL that is asked instead of a model's own URLs; empty: none.
    """

    ae_titles: tuple[str, ...]
    database_url: str = field(repr=False)
    weights_dir: Path
    weights_mirror: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the content without secrets: equal digests decide equally."""
        content = asdict(self, dict_factory=_without_value_of_secret)
        content["database_url"] = without_password(self.database_url)
        body = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(body.encode()).hexdigest()


def without_password(url: str) -> str:
    """A URL that may be shown; one that is none is not shown at all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}@{host}"))


def _without_value_of_secret(fields: list[tuple[str, Any]]) -> Any:
    """A value as a mapping, a secret as where it came from."""
    content = dict(fields)
    return content["source"] if content.keys() == {"source", "value"} else content
