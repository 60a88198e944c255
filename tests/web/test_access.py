"""Nobody comes in without credentials, and nobody learns why."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from node.config.values import AuthConfig, User
from node.database.engine import open_engine, writing
from node.domain.access import RIGHTS, Right, Role, least_role
from node.domain.guesses import (
    FORGOTTEN_AFTER_S,
    MOST_GUESSES,
    MOST_GUESSES_OF_ADDRESS,
    Guesses,
)
from node.domain.health import Health
from node.domain.peers import Peer
from node.domain.settings import Secret
from node.jobs import tables as jobs_tables
from node.jobs.catalog import JobCatalog
from node.receive.stow import StowService
from node.receive.stow_parts import PartReceiver
from node.spool import tables as spool_tables
from node.spool.catalog import SpoolCatalog
from node.web.access import PROBES, right_for
from node.web.api import Row, WebServices
from node.web.app import create_app
from tests.support.http_server import (
    MULTIPART,
    Answer,
    MemoryAssociations,
    MemoryIngest,
    Site,
    body_of,
    serving,
)
from tests.support.phantoms import Phantom

FILE = Phantom(shape=(1, 8, 8)).files()[0]
SECRETS = {"operator": "s3cret:with colon", "pacs": "pässword", "viewer": "look", "admin": "all"}
ROLES = {
    "operator": (Role.OPERATOR, Role.SENDER),
    "pacs": (Role.SENDER,),
    "viewer": (Role.VIEWER,),
    "admin": (Role.ADMIN,),
}
BASIC = AuthConfig(
    kind="basic",
    users={
        name: User(roles=ROLES[name], password=Secret(source="env:P", value=secret))
        for name, secret in SECRETS.items()
    },
)
TOKEN = AuthConfig(
    kind="token",
    users={
        name: User(roles=ROLES[name], token=Secret(source="env:T", value=secret))
        for name, secret in SECRETS.items()
    },
)


class Nothing:
    """No models, no actions, always ready."""

    def list_models(self) -> list[Row]:
        return []

    def get_model(self, name: str) -> Row | None:
        return None

    def health(self) -> Health:
        return Health()

    def __getattr__(self, name: str) -> Callable[[object], None]:
        def refuse(key: object) -> None:
            raise AssertionError(f"{name} was asked for {key}")

        return refuse


@pytest.fixture(scope="module")
def shared_ingest() -> MemoryIngest:
    return MemoryIngest()


@pytest.fixture
def ingest(shared_ingest: MemoryIngest) -> MemoryIngest:
    shared_ingest.clear()
    return shared_ingest


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('access') / 'test.sqlite'}")
    with writing(engine) as connection:
        spool_tables.metadata.create_all(connection)
        jobs_tables.metadata.create_all(connection)
    yield engine
    engine.dispose()


def application_of(
    engine: Engine, ingest: MemoryIngest, auth: AuthConfig
) -> tuple[FastAPI, StowService]:
    nothing = Nothing()
    services = WebServices(
        spool=SpoolCatalog(engine),
        jobs=JobCatalog(engine),
        models=nothing,
        actions=nothing,  # type: ignore[arg-type]
        health=nothing,
        results_dir=Path("/nowhere"),
        counts_dir=Path("/nowhere"),
    )
    stow = StowService(
        PartReceiver(ingest=ingest, associations=MemoryAssociations()),
        peers=[Peer(name="PACS", http_user="pacs")],
    )
    return create_app(services, stow=stow, auth=auth), stow


@contextmanager
def running(engine: Engine, ingest: MemoryIngest, auth: AuthConfig) -> Iterator[Site]:
    application, stow = application_of(engine, ingest, auth)
    with serving(application) as site:
        yield site
    stow.close()


@pytest.fixture(scope="module")
def basic(engine: Engine, shared_ingest: MemoryIngest) -> Iterator[Site]:
    with running(engine, shared_ingest, BASIC) as site:
        yield site


@pytest.fixture(scope="module")
def token(engine: Engine, shared_ingest: MemoryIngest) -> Iterator[Site]:
    with running(engine, shared_ingest, TOKEN) as site:
        yield site


def as_user(name: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        as_user("operator", "wrong"),
        as_user("operator", ""),
        as_user("nobody", "s3cret:with colon"),
        as_user("", ""),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer s3cret:with colon"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/openapi.json", "/nothing", "/dicom-web/"])
def test_f60b_wrong_credentials_are_401_with_a_challenge(
    basic: Site, headers: dict[str, str], path: str
) -> None:
    answer = basic.request("GET", path, headers=headers)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="segnode", charset="UTF-8"'
    assert answer.body == b'{"detail":"credentials are needed"}'


def test_right_credentials_come_in(basic: Site) -> None:
    answer = basic.request("GET", "/api/v1/jobs", headers=as_user("operator", "s3cret:with colon"))

    assert answer.status == 200


@pytest.mark.parametrize(
    ("given", "status"), [("look", 200), ("Look", 401), ("", 401), ("look look", 401)]
)
def test_f60b_a_bearer_token_is_checked(token: Site, given: str, status: int) -> None:
    answer = token.request("GET", "/api/v1/jobs", headers={"Authorization": f"Bearer {given}"})

    assert answer.status == status
    if status == 401:
        assert answer.headers["www-authenticate"] == 'Bearer realm="segnode"'


def test_a_refused_upload_reaches_no_ingest(basic: Site, ingest: MemoryIngest) -> None:
    answer = basic.request("POST", "/dicom-web/studies", body_of(FILE), {"Content-Type": MULTIPART})

    assert answer.status == 401
    assert not ingest.origins


def test_the_user_and_its_peer_are_the_origin_of_what_was_sent(
    basic: Site, ingest: MemoryIngest
) -> None:
    headers = {"Content-Type": MULTIPART, **as_user("pacs", "pässword")}

    answer = basic.request("POST", "/dicom-web/studies", body_of(FILE), headers)

    assert answer.status == 200
    assert (ingest.origins[0].http_user, ingest.origins[0].peer) == ("pacs", "PACS")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_credentials(basic: Site, path: str) -> None:
    assert basic.request("GET", path).status == 200


def test_secrets_are_not_shown() -> None:
    assert "s3cret" not in repr(BASIC)


def test_who_guesses_waits_and_others_do_not(
    engine: Engine, ingest: MemoryIngest, caplog: pytest.LogCaptureFixture
) -> None:
    with running(engine, ingest, BASIC) as site, caplog.at_level("WARNING", "node.web"):

        def ask(name: str, secret: str) -> Answer:
            return site.request("GET", "/api/v1/jobs", headers=as_user(name, secret))

        guessed = [ask("operator", f"guess {number}").status for number in range(MOST_GUESSES)]
        too_late = ask("operator", SECRETS["operator"])
        other = ask("viewer", SECRETS["viewer"])
        probe = site.request("GET", "/healthz")

    assert guessed == [401] * MOST_GUESSES
    assert (too_late.status, too_late.headers["retry-after"]) == (429, "60")
    assert (other.status, probe.status) == (200, 200)
    told = [record for record in caplog.records if record.message == "a sign-in failed"]
    assert len(told) == MOST_GUESSES
    assert (told[0].address, told[0].account) == ("127.0.0.1", "'operator'")  # type: ignore[attr-defined]
    assert "guess 1" not in caplog.text


def test_guesses_are_forgotten_and_many_accounts_of_one_address_count_together() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    for number in range(MOST_GUESSES_OF_ADDRESS):
        guesses.note("10.0.0.5", f"account {number}")

    assert guesses.are_too_many("10.0.0.5", "another")
    assert not guesses.are_too_many("10.0.0.6", "another")
    now[0] = FORGOTTEN_AFTER_S
    assert not guesses.are_too_many("10.0.0.5", "another")


def test_metrics_are_shown_to_users_alone(engine: Engine, ingest: MemoryIngest) -> None:
    with running(engine, ingest, BASIC) as site:
        without = site.request("GET", "/metrics")
        credentials = base64.b64encode(f"viewer:{SECRETS['viewer']}".encode()).decode()
        shown = site.request("GET", "/metrics", headers={"Authorization": f"Basic {credentials}"})

    assert without.status == 401
    assert shown.status == 200
    assert shown.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE segnode_associations_refused_total counter" in shown.body


# --- who may do what --------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "access.md").read_text("utf-8")
NOT_THERE = {"uid": "1.2.3", "name": "no_model"}


def routes_of(application: FastAPI) -> list[tuple[str, str]]:
    """Every method and path that there is, with parameters filled in."""
    found = [("POST", "/dicom-web/studies"), ("GET", "/api/openapi.json")]
    for path, operations in application.openapi()["paths"].items():
        filled = re.sub(r"{(\w+)}", lambda given: NOT_THERE.get(given[1], "7"), path)
        found += [(method.upper(), filled) for method in operations]
    return found


@pytest.fixture(scope="module")
def every_route(engine: Engine, shared_ingest: MemoryIngest) -> list[tuple[str, str]]:
    return routes_of(application_of(engine, shared_ingest, BASIC)[0])


def test_every_route_asks_for_a_right_and_no_route_is_the_admins_by_accident(
    every_route: list[tuple[str, str]],
) -> None:
    asked = {route: right_for(*route) for route in every_route if route[1] not in PROBES}

    assert len(asked) > 20
    assert [route for route, right in asked.items() if right is Right.GOVERN] == []


@pytest.mark.parametrize("user", ["pacs", "viewer", "operator", "admin"])
def test_an_account_may_do_what_its_roles_say_and_nothing_else(
    basic: Site, every_route: list[tuple[str, str]], user: str
) -> None:
    mine = {right for role in ROLES[user] for right in RIGHTS[role]}
    headers = as_user(user, SECRETS[user])
    for method, path in every_route:
        if path in PROBES:
            continue
        answer = basic.request(method, path, headers=headers)
        is_allowed = right_for(method, path) in mine
        assert (answer.status != 403) == is_allowed, (method, path, answer.status)
        if answer.status == 403:
            role = least_role(right_for(method, path))
            sentence = f"{user} may not do this: it takes the role {role}"
            assert json.loads(answer.body) == {"detail": sentence}


def test_a_path_that_nobody_thought_of_is_the_admins() -> None:
    for path in ("/", "/console", "/api/v2/series", "/api/v1", "/metrics/../x", "/dicom-webs"):
        assert right_for("GET", path) is Right.GOVERN
    assert right_for("DELETE", "/api/v1/series/1") is Right.ACT
    assert right_for("POST", "/metrics") is Right.GOVERN


def test_the_page_says_who_may_do_what() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE)
    told = {role: set(re.findall(r"`(\w+)`", rights)) for role, rights in rows}

    assert told == {role.value: {right.value for right in RIGHTS[role]} for role in Role}
