"""The shape of the YAML file: keys, types, defaults. The only place where pydantic is used.

Unknown keys are found by ``mistakes.unknown_keys``, which can suggest the right one; what depends on
several keys is checked in ``building``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Timeout = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[
    str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}$")]
Parameter = str | int | float | bool | list[str]

DEFAULT_LAYOUT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.{ext}"


class Keys(BaseModel):
    """A mapping of the file; types are strict, so that no text becomes a number by chance."""

    model_config = ConfigDict(strict=True, extra="ignore")


class DimseKeys(Keys):
    host: Text = "127.0.0.1"
    port: Port = 11112
    max_associations: Annotated[int, Field(ge=1)] = 50
    max_associations_per_peer: Annotated[int, Field(ge=1)] = 20


class UserKeys(Keys):
    password_env: Text | None = None
    password_file: Text | None = None
    token_env: Text | None = None
    token_file: Text | None = None


class AuthKeys(Keys):
    kind: Literal["none", "basic", "token"] = "none"
    users: dict[Text, UserKeys] = {}


class WebKeys(Keys):
    host: Text = "127.0.0.1"
    port: Port = 8080
    auth: AuthKeys = AuthKeys()


class KeepDaysKeys(Keys):
    done: Amount = 7
    unmatched: Amount = 3
    parked: Amount = 30
    quarantine: Amount = 30
    results: Amount = 30


class StorageKeys(Keys):
    reserve_gb: Amount = 5
    max_used_percent: Annotated[float, Field(gt=0, le=100)] = 85
    keep_days: KeepDaysKeys = KeepDaysKeys()
    quarantine_max_gb: Amount = 5
    duplicates: Literal["keep_first"] = "keep_first"


class PeerKeys(Keys):
    ae_title: Text | None = None
    host: Text | None = None
    port: Port = 104
    allow_from: list[Text] = []
    http_user: Text | None = None
    reply_to: Text | None = None


class DimseDestinationKeys(Keys):
    kind: Literal["dimse"]
    peer: Text
    calling_ae_title: Text | None = None
    connect_timeout_s: Timeout = 10
    negotiate_timeout_s: Timeout = 20
    answer_timeout_s: Timeout = 60


class ClientAuthKeys(UserKeys):
    kind: Literal["none", "basic", "token"]
    user: Text | None = None


class DicomwebDestinationKeys(Keys):
    kind: Literal["dicomweb"]
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
    auth: ClientAuthKeys | None = None
    ca_file: Text | None = None
    connect_timeout_s: Timeout = 10
    answer_timeout_s: Timeout = 120


class FolderDestinationKeys(Keys):
    kind: Literal["folder"]
    path: Text
    layout: Text = DEFAULT_LAYOUT


DestinationKeys = Annotated[
    DimseDestinationKeys | DicomwebDestinationKeys | FolderDestinationKeys,
    Field(discriminator="kind"),
]


class FolderKeys(Keys):
    path: Text
    peer: Text | None = None
    scan_s: Timeout = 2


class CompletionKeys(Keys):
    release_settle_s: Seconds = 1.0
    quiet_s: Seconds = 5
    quiet_max_s: Seconds = 60
    study_wait_s: Seconds = 3600
    give_up_s: Seconds = 5400
    on_give_up: Literal["hold", "proceed", "discard"] = "hold"
    on_refused: Literal["hold", "proceed"] = "hold"
    late: Literal["rerun", "hold"] = "rerun"


class RuleKeys(Keys):
    name: Annotated[str, Field(pattern=r"^\S(.{0,126}\S)?$")]
    when: Any = None
    study: Any = None
    run: Text
    send: list[Text] = ["sender"]
    priority: Literal["urgent", "normal", "background"] = "normal"
    parameters: dict[str, Parameter] = {}
    deadline_s: Timeout | None = None


class WorkKeys(Keys):
    devices: Annotated[list[Text], Field(min_length=1)] = ["cpu"]
    deadline_s: Timeout = 1800
    idle_unload_s: Seconds = 600
    attempts: Annotated[int, Field(ge=1)] = 3
    on_implausible: Literal["hold", "deliver"] = "hold"


class NodeKeys(Keys):
    ae_title: Text | None = None
    ae_titles: Annotated[list[Text], Field(min_length=1)] | None = None
    dimse: DimseKeys = DimseKeys()
    web: WebKeys = WebKeys()
    data_dir: Text = "./segnode-data"
    database: Text | None = None
    database_env: Text | None = None
    database_file: Text | None = None
    storage: StorageKeys = StorageKeys()
    peers: dict[Name, PeerKeys] = {}
    destinations: dict[Name, DestinationKeys] = {}
    folders: list[FolderKeys] = []
    completion: CompletionKeys = CompletionKeys()
    rules: Annotated[list[RuleKeys], Field(min_length=1)]
    work: WorkKeys = WorkKeys()
    models_dirs: list[Text] = []
    weights_dir: Text | None = None
    weights_mirror: Text | None = None
    accept_licences: list[Text] = []


# Known to readers of the design, but not built yet: a clear answer instead of "unknown key".
# A "*" stands for any name or index.
NOT_IN_THIS_VERSION = frozenset(
    {
        "fetch",
        "ray",
        "s3",
        "tls",
        "worklist",
        "dimse.tls",
        "web.tls",
        "web.auth.oidc",
        "storage.s3",
        "peers.*.tls",
        "peers.*.query",
        "destinations.*.tls",
        "destinations.*.confirm",
        "destinations.*.form",
        "completion.expect",
    }
)
VALUES_NOT_IN_THIS_VERSION = frozenset(
    {
        ("web.auth.kind", "oidc"),
        ("storage.duplicates", "replace"),
        ("destinations.*.kind", "s3"),
        ("destinations.*.kind", "hl7"),
        ("destinations.*.auth.kind", "oidc"),
    }
)
SECRETS = frozenset({"password", "token", "secret"})
