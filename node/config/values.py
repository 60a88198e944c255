"""The configuration as frozen plain values: what the rest of the node sees of the YAML file.

Seconds, gigabytes (1000^3 bytes) and days are in the names. Paths are absolute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from node.domain.job import Priority
from node.domain.peers import Peer

PeerConfig = Peer
SENDER = "sender"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A password or token; neither shown nor part of the digest.

    Args:
        source: Where it came from, such as ``env:PACS_PASSWORD``.
    """

    source: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseConfig:
    """The Storage SCP."""

    host: str
    port: int
    max_associations: int
    max_associations_per_peer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """Who may use HTTP: for ``basic`` a password per user, for ``token`` a bearer token per user."""

    kind: Literal["none", "basic", "token"] = "none"
    users: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """All HTTP: STOW-RS, the REST API, health."""

    host: str
    port: int
    auth: AuthConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDays:
    """How long files are kept once nothing needs them; 0 is at once."""

    done: float
    unmatched: float
    parked: float
    quarantine: float
    results: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How much disk the node may use, and for how long."""

    reserve_gb: float
    max_used_percent: float
    keep_days: KeepDays
    quarantine_max_gb: float
    duplicates: Literal["keep_first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseDestinationConfig:
    """C-STORE to a peer."""

    name: str
    kind: Literal["dimse"] = "dimse"
    peer: str
    calling_ae_title: str
    connect_timeout_s: float
    negotiate_timeout_s: float
    answer_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAuthConfig:
    """How the node signs in at a destination."""

    kind: Literal["basic", "token"]
    user: str
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomwebDestinationConfig:
    """STOW-RS to a server."""

    name: str
    kind: Literal["dicomweb"] = "dicomweb"
    url: str
    auth: ClientAuthConfig | None
    ca_file: Path | None
    connect_timeout_s: float
    answer_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDestinationConfig:
    """Files into an existing folder."""

    name: str
    kind: Literal["folder"] = "folder"
    path: Path
    layout: str


DestinationConfig: TypeAlias = (
    DimseDestinationConfig | DicomwebDestinationConfig | FolderDestinationConfig
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionConfig:
    """When a series counts as complete, and what happens when it never is."""

    release_settle_s: float
    quiet_s: float
    quiet_max_s: float
    study_wait_s: float
    give_up_s: float
    on_give_up: Literal["hold", "proceed", "discard"]
    on_refused: Literal["hold", "proceed"]
    late: Literal["rerun", "hold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """One rule; its clauses as they stand in the file, compiled by the route stage.

    Exactly one of ``when`` and ``study`` is given.

    Args:
        send: Destination names, and ``sender``; empty: the result stays in the node.
        deadline_s: Longest run of the model; None: the model's own, at most that of ``work``.
    """

    name: str
    when: Mapping[str, Any] | None
    study: Mapping[str, Any] | None
    run: str
    send: tuple[str, ...]
    priority: Priority
    parameters: Mapping[str, str | int | float | bool | list[str]]
    deadline_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkConfig:
    """Where and for how long models run; one worker process per device.

    Args:
        on_implausible: What becomes of a result that no patient can have.
    """

    devices: tuple[str, ...]
    deadline_s: float
    idle_unload_s: float
    attempts: int
    on_implausible: Literal["hold", "deliver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig:
    """A watched folder.

    Args:
        peer: Who counts as the sender of what lies there, or empty.
    """

    path: Path
    peer: str
    scan_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The whole configuration.

    Args:
        ae_titles: Names this node answers to; the first is the one it calls others with.
        models_dirs: Folders of models besides those that come with segnode.
        weights_dir: Where ``models pull`` puts files and workers look for them.
        weights_mirror: A folder or URL that is asked instead of a model's own URLs; empty: none.
        accept_licences: Licences without commercial use that somebody here has read and accepted.
    """

    ae_titles: tuple[str, ...]
    dimse: DimseConfig
    web: WebConfig
    data_dir: Path
    database_url: str = field(repr=False)
    storage: StorageConfig
    peers: Mapping[str, PeerConfig]
    destinations: Mapping[str, DestinationConfig]
    folders: tuple[FolderConfig, ...]
    completion: CompletionConfig
    rules: tuple[RuleConfig, ...]
    work: WorkConfig
    models_dirs: tuple[Path, ...]
    weights_dir: Path
    weights_mirror: str
    accept_licences: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the content without secrets: equal digests decide equally."""
        content = asdict(self) | {"database_url": without_password(self.database_url)}
        body = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"))
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


def _plain(value: object) -> object:
    """JSON values, a secret reduced to where it came from."""
    if isinstance(value, Mapping):
        if value.keys() == {"source", "value"}:
            return value["source"]
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
