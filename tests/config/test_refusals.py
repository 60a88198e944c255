"""Every mistake stops the start, with its path and a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import NodeConfig, load, parse
from node.domain.errors import ConfigInvalid
from node.route.compiling import mistakes_in

RULES = "rules: [{name: ct, when: {Modality: CT}, run: m, send: []}]\n"
PEER = "peers: {P: {ae_title: X, host: 10.0.0.5}}\n"


def mistakes_of(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigInvalid) as invalid:
        parse(text, environ or {}, base=Path("/base"), check_rules=mistakes_in)
    return dict(invalid.value.mistakes)


def accepted(text: str, environ: dict[str, str] | None = None) -> NodeConfig:
    return parse(text, environ or {}, base=Path("/base"), check_rules=mistakes_in)


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (RULES + "dimse: {prot: 1}", "dimse.prot", "did you mean port?"),
        (RULES + "colour: red", "colour", "unknown key; known here: dimse"),
        (RULES + "ray: {}", "ray", "not in this version"),
        (RULES + "storage: {s3: {}}", "storage.s3", "not in this version"),
        (RULES + "web: {auth: {kind: oidc}}", "web.auth.kind", "oidc is not in this version"),
        (RULES + "storage: {duplicates: replace}", "storage.duplicates", "not in this version"),
        (RULES + "destinations: {d: {kind: s3}}", "destinations.d.kind", "not in this version"),
        (
            RULES + "destinations: {d: {kind: ftp}}",
            "destinations.d.kind",
            "dimse, dicomweb, folder",
        ),
        (RULES + "destinations: {d: {path: x}}", "destinations.d.kind", "required"),
        (RULES + "destinations: {d: {kind: dimse, peer: Q}}", "destinations.d.peer", "no peer Q"),
        (
            RULES + "peers: {P: {http_user: u, ae_title: X, allow_from: [10.0.0.1]}}\n"
            "destinations: {d: {kind: dimse, peer: P}}",
            "destinations.d.peer",
            "needs ae_title and host",
        ),
        (
            RULES + "destinations: {d: {kind: folder, path: x, layout: '../{model}'}}",
            "destinations.d.layout",
            "relative path",
        ),
        (
            RULES + "destinations: {d: {kind: folder, path: x, layout: '{PatientName}'}}",
            "destinations.d.layout",
            "unknown field {PatientName}",
        ),
        (
            RULES + "destinations: {sender: {kind: folder, path: x}}",
            "destinations.sender",
            "sender",
        ),
        (
            RULES + "destinations: {d: {kind: dicomweb, url: 'ftp://x'}}",
            "destinations.d.url",
            "begins with http",
        ),
        (
            RULES + "destinations: {d: {kind: dicomweb, url: 'http://u:p@x'}}",
            "destinations.d.url",
            "holds a password",
        ),
        (
            RULES + PEER + "destinations: {d: {kind: dimse, peer: P, calling_ae_title: 'A\\B'}}",
            "destinations.d.calling_ae_title",
            "no backslash",
        ),
        (
            RULES + "destinations: {d: {kind: dimse, peer: {host: h}}}",
            "destinations.d.peer",
            "takes one text",
        ),
        (
            RULES + "destinations: {d: {kind: dicomweb, url: 'http://x', auth: {kind: basic}}}",
            "destinations.d.auth",
            "needs either password_env or password_file",
        ),
        (
            RULES + "destinations: {d: {kind: folder, path: x, form: nifti}}",
            "destinations.d.form",
            "did you mean forms?",
        ),
        (RULES + "peers: {P: {ae_title: X, host: h, reply_to: nix}}", "peers.P.reply_to", "nix"),
        (RULES + "peers: {P: {ae_title: X}}", "peers.P", "host or allow_from"),
        (RULES + "peers: {P: {host: h}}", "peers.P", "ae_title (DIMSE) or http_user"),
        (RULES + "peers: {P: P}", "peers.P", "takes keys and values"),
        (
            RULES + "peers: {P: {ae_title: X, host: h, user_identity: {username: u, passcode: s}}}",
            "peers.P.user_identity.passcode",
            "use passcode_env or passcode_file",
        ),
        (
            RULES + "peers: {P: {ae_title: X, host: h, user_identity: {passcode_env: S}}}",
            "peers.P.user_identity.username",
            "required",
        ),
        (
            RULES + "peers: {P: {http_user: u, user_identity: {username: u}}}",
            "peers.P.user_identity",
            "needs ae_title",
        ),
        (RULES + "dimse: {limits: {waiting: 0}}", "dimse.limits.waiting", "takes 1 or more"),
        (
            RULES + "dimse: {limits: {waiting: 10}}",
            "dimse.limits.waiting_per_address",
            "above waiting (10): lower it",
        ),
        (
            RULES + "dimse: {limits: {max_pdu_bytes: 100}}",
            "dimse.limits.max_pdu_bytes",
            "takes 4096 or more",
        ),
        (
            RULES + "web: {limits: {max_requests: 20}}",
            "web.limits.max_stow_requests",
            "above max_requests (20): lower it",
        ),
        (
            RULES + "ingest: {limits: {max_series: 20}}",
            "ingest.limits.max_series",
            "unknown key",
        ),
        (
            RULES + "peers: {P: {ae_title: X, allow_from: [10.0.0.300]}}",
            "peers.P.allow_from.0",
            "no address",
        ),
        (RULES + "peers: {P: {ae_title: 'SEVENTEEN_LETTERS', host: h}}", "peers.P.ae_title", "16"),
        (RULES + "peers: {P: {http_user: u}}", "peers.P.http_user", "no user u in web.auth.users"),
        (
            RULES + "peers: {P: {ae_title: X, host: h}, Q: {ae_title: X, host: h}}",
            "peers.Q",
            "of peer P",
        ),
        (RULES + "peers: {'a b': {ae_title: X, host: h}}", "peers.a b", "names have letters"),
        (RULES + "peers: {1: {ae_title: X, host: h}}", "peers.1", "names have letters"),
        (
            "rules: [{name: a, run: m, when: {Modality: CT}, parameters: {1: 2}}]",
            "rules.0.parameters.1",
            "names have letters",
        ),
        (RULES + "dimse: {host: 0.0.0.0}", "dimse.host", "no peer may send"),
        (RULES + "dimse: {host: '::'}", "dimse.host", "no peer may send"),
        (RULES + "web: {host: 192.168.1.5}", "web.host", "without authentication"),
        (RULES + "dimse: {port: 8080}", "web.port", "port of dimse"),
        (RULES + "dimse: {port: 0}", "dimse.port", "1 or more"),
        (RULES + "dimse: {port: '104'}", "dimse.port", "takes a whole number"),
        (RULES + "dimse: {max_associations: 5}", "dimse.max_associations_per_peer", "lower it"),
        (RULES + "completion: {quiet_s: 90}", "completion.quiet_max_s", "below quiet_s (90)"),
        (RULES + "completion: {give_up_s: 9}", "completion.give_up_s", "below quiet_max_s"),
        (RULES + "completion: {on_give_up: no}", "completion.on_give_up", "hold, proceed, discard"),
        (RULES + "storage: {reserve_gb: .nan}", "storage.reserve_gb", "number"),
        (RULES + "ae_title: A\nae_titles: [B]", "ae_title", "keep one of the two"),
        (RULES + "folders: [{path: x, peer: Q}]", "folders.0.peer", "no peer Q"),
        (RULES + "database: mysql://x", "database", "begins with sqlite:///"),
        (RULES + "database: 'postgresql+psycopg://u:p@h/d'", "database", "holds a password"),
        ("{}", "rules", "required"),
        ("rules: []", "rules", "must not be empty"),
        (RULES + "work: {devices: []}", "work.devices", "must not be empty"),
        (RULES + "work: {devices: [gpu]}", "work.devices", "cuda:1 and so on, not 'gpu'"),
        (RULES + "work: {devices: [auto, cpu]}", "work.devices", "takes [auto], or cpu"),
        (RULES + "work: {workers: 0}", "work.workers", "1"),
        ("rules: [5]", "rules.0", "keys and values"),
        ("rules: [{run: m, when: {Modality: CT}}]", "rules.0.name", "required"),
        ("rules: [{name: a, when: {Modality: CT}}]", "rules.0.run", "required"),
        ("rules: [{name: a, run: m}]", "rules.0", "either when"),
        ("rules: [{name: a, run: m, when: {}}]", "rules.0.when", "no clause here"),
        ("rules: [{name: a, run: m, study: {t1: {}}}]", "rules.0.study.t1", "a role needs clauses"),
        ("rules: [{name: a, run: m, study: {}}]", "rules.0.study", "needs roles"),
        (
            "rules: [{name: a, run: m, when: {Modalty: CT}}]",
            "rules.0.when.Modalty",
            "did you mean Modality?",
        ),
        (
            "rules: [{name: a, run: m, when: {slices: {min: 9, max: 3}}}]",
            "rules.0.when.slices",
            "min 9 is above max 3",
        ),
        (
            "rules: [{name: a, run: m, when: {Modality: CT}, send: [pacs]}]",
            "rules.0.send.0",
            "no destination pacs",
        ),
        (
            PEER + "rules: [{name: a, run: m, when: {Modality: CT}, send: [P]}]",
            "rules.0.send.0",
            "P is a peer: add a destination",
        ),
        (
            "rules: [{name: a, run: m, when: {Modality: CT}, priority: high}]",
            "rules.0.priority",
            "urgent, normal, background",
        ),
        (
            "rules: [{name: a, run: m, when: {Modality: CT}},"
            " {name: a, run: m, when: {Modality: MR}}]",
            "rules.1.name",
            "rules.0 has this name already",
        ),
        ("a: [", "", "line 1"),
        ("rules: []\nrules: []", "", "rules is given twice"),
        ("- a", "", "must hold keys and values"),
    ],
)
def test_a_mistake_is_named_by_path_and_sentence(text: str, path: str, words: str) -> None:
    mistakes = mistakes_of(text)

    assert words in mistakes[path]


def test_one_mistake_gives_one_line() -> None:
    mistakes = mistakes_of(RULES + "dimse: {port: x}")

    assert list(mistakes) == ["dimse.port"]


def test_what_follows_from_a_mistake_is_not_told_beside_it() -> None:
    mistakes = mistakes_of(
        RULES + "web: {auth: {kind: basic, users: {u: {password_env: P, x: 1}}}}"
    )

    assert list(mistakes) == ["web.auth.users.u.x", "web.auth.users.u.password_env"]


def test_a_destination_of_a_peer_that_is_wrong_is_not_told_as_well() -> None:
    mistakes = mistakes_of(
        RULES + "peers: {P: {ae_title: X, host: h, port: x}}\n"
        "destinations: {d: {kind: dimse, peer: P}}"
    )

    assert mistakes == {"peers.P.port": "takes a whole number"}


def test_a_form_is_one_that_there_is_and_that_the_kind_carries() -> None:
    text = RULES + (
        "destinations:\n"
        "  web: {kind: dicomweb, url: 'http://x', forms: [seg, nifti]}\n"
        "  shelf: {kind: folder, path: x, forms: [nifti, sge]}\n"
    )

    with pytest.raises(ConfigInvalid) as invalid:
        parse(text, {}, base=Path("/base"), forms={"seg": True, "nifti": False})

    assert dict(invalid.value.mistakes) == {
        "destinations.web.forms.1": "nifti is no DICOM object, and nothing else goes to this kind",
        "destinations.shelf.forms.1": "no form sge; known: nifti, seg",
    }


def test_paths_of_a_destination_start_from_the_file_and_its_name_from_the_first_title() -> None:
    config = accepted(
        RULES + PEER + "ae_titles: [ONE, TWO]\n"
        "destinations:\n"
        "  d: {kind: dimse, peer: P}\n"
        "  f: {kind: folder, path: shelf}\n"
        "  w: {kind: dicomweb, url: 'https://x', tls: {ca: ca.pem}}\n"
    )

    dimse, folder, web = config.destinations.values()
    assert (dimse.peer.host, dimse.calling_ae_title, dimse.name) == ("10.0.0.5", "ONE", "d")
    assert (folder.path, web.tls.ca) == (Path("/base/shelf"), "/base/ca.pem")


def test_an_anchor_that_holds_itself_is_refused() -> None:
    mistakes = mistakes_of("rules: &r\n  - {name: a, run: m, when: {any: *r}}\n")

    assert mistakes


def test_all_mistakes_come_at_once_whatever_part_they_are_in() -> None:
    mistakes = mistakes_of(
        "ae_titles: 5\nweb: {host: 0.0.0.0}\ndestinations: {d: {kind: dimse}}\n"
        "rules: [{name: a, run: 7, when: {Modalty: CT}}, 3,"
        " {name: b, run: m, when: {Rows: '512'}, send: [d, e]}]"
    )

    assert set(mistakes) == {
        "ae_titles",
        "web.host",
        "destinations.d.peer",
        "rules.0.run",
        "rules.0.when.Modalty",
        "rules.1",
        "rules.2.when.Rows",
        "rules.2.send.1",
    }


def test_a_bind_to_the_network_is_fine_with_peers_and_authentication() -> None:
    config = accepted(
        RULES + PEER + "dimse: {host: 0.0.0.0}\n"
        "web: {host: 0.0.0.0, auth: {kind: token, users: {u: {token_env: T}}}}",
        {"T": "s3cret"},
    )

    assert (config.dimse.host, config.web.auth.users["u"].secret) == ("0.0.0.0", "s3cret")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "::1", "localhost"])
def test_loopback_needs_neither_peers_nor_authentication(host: str) -> None:
    config = accepted(RULES + f"dimse: {{host: '{host}'}}\nweb: {{host: '{host}'}}")

    assert config.dimse.host == host


@pytest.mark.parametrize(
    ("user", "path", "words"),
    [
        ("{password_env: NOT_SET}", "web.auth.users.u.password_env", "NOT_SET is not set"),
        ("{password_file: nowhere}", "web.auth.users.u.password_file", "cannot be read"),
        ("{}", "web.auth.users.u", "either password_env or password_file"),
        ("{password: hunter2}", "web.auth.users.u.password", "password_env or password_file"),
        ("{token_env: T}", "web.auth.users.u.token_env", "kind asks for a password"),
        ("{password_env: ''}", "web.auth.users.u.password_env", "must not be empty"),
        ("{password_env: 5}", "web.auth.users.u.password_env", "takes one text"),
    ],
)
def test_a_secret_that_is_not_there_is_refused(user: str, path: str, words: str) -> None:
    mistakes = mistakes_of(RULES + f"web: {{auth: {{kind: basic, users: {{u: {user}}}}}}}")

    assert words in mistakes[path]
    assert "hunter2" not in "".join(mistakes.values())


def test_a_secret_is_neither_shown_nor_part_of_the_digest() -> None:
    text = RULES + "web: {auth: {kind: basic, users: {u: {password_env: P}}}}\ndatabase_env: D\n"
    url = "postgresql+psycopg://u:{}@h/d"
    one = accepted(text, {"P": "first-secret", "D": url.format("first-db")})
    other = accepted(text, {"P": "other-secret", "D": url.format("other-db")})

    assert one.digest == other.digest
    assert "first-" not in repr(one)
    assert one.database_url == url.format("first-db")


def test_the_digest_follows_what_decides() -> None:
    digests = {
        accepted(RULES + extra).digest
        for extra in ("", "completion: {quiet_s: 6}", "work: {attempts: 4}", PEER)
    }

    assert len(digests) == 4


def test_a_secret_file_is_read_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    file = tmp_path / "node.yaml"
    file.write_text(
        RULES + "web: {auth: {kind: basic, users: {u: {password_file: secret}}}}\n"
        "data_dir: data\ndatabase: sqlite:///here.sqlite"
    )

    config = load(file, {})

    assert config.web.auth.users["u"].secret == "s3cret"
    assert config.data_dir == tmp_path / "data"
    assert config.database_url == f"sqlite:///{tmp_path / 'here.sqlite'}"


def test_yaml_words_that_look_like_booleans_stay_text() -> None:
    config = accepted(
        "rules: [{name: a, run: m, when: {BurnedInAnnotation: NO, StudyDate: 2024-01-31}}]"
    )

    assert config.rules[0].when == {"BurnedInAnnotation": "NO", "StudyDate": "2024-01-31"}


def test_an_unquoted_number_for_text_is_refused_and_one_with_a_leading_zero_is_text() -> None:
    mistakes = mistakes_of("rules: [{name: a, run: m, when: {StudyID: 7}}]")
    config = accepted("rules: [{name: a, run: m, when: {StudyID: 007}}]")

    assert "write '7' in quotes" in mistakes["rules.0.when.StudyID"]
    assert config.rules[0].when == {"StudyID": "007"}


def test_a_file_that_is_not_there_is_a_configuration_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path / "absent.yaml", {})


def test_the_safe_default_stays_on_this_machine() -> None:
    config = load(None, {}, check_rules=mistakes_in)

    assert (config.dimse.host, config.web.host) == ("127.0.0.1", "127.0.0.1")
    assert [(rule.run, rule.send) for rule in config.rules] == [("ct_tissue", ("sender",))]


def test_a_passcode_is_read_and_neither_shown_nor_part_of_the_digest() -> None:
    text = RULES + (
        "peers: {P: {ae_title: X, host: h, user_identity: {username: u, passcode_env: S}}}\n"
        "destinations: {d: {kind: dimse, peer: P, user_identity: {username: n, passcode_env: T}}}\n"
    )

    one = accepted(text, {"S": "hush", "T": "sesame"})
    other = accepted(text, {"S": "third", "T": "fourth"})

    identity = one.peers["P"].user_identity
    assert identity is not None
    assert identity.passcode is not None
    assert (identity.username, identity.passcode.value) == ("u", "hush")
    assert one.digest == other.digest
    assert not any(secret in repr(one) for secret in ("hush", "sesame"))
