"""Who a caller is."""

from __future__ import annotations

import pytest

from node.domain.peers import Peer, is_ae_title, is_loopback, match_http_user, match_peer

PACS = Peer(name="pacs", ae_title="PACS", host="10.0.0.5")
WARD = Peer(name="ward", ae_title="SCANNER", host="ct1", allow_from=("10.1.0.0/16", "10.9.9.9"))
NAMED = Peer(name="named", ae_title="NAMED", host="pacs.hospital.example")


@pytest.mark.parametrize(
    ("title", "address", "expected"),
    [
        ("PACS", "10.0.0.5", PACS),
        ("  PACS  ", "10.0.0.5", PACS),
        ("pacs", "10.0.0.5", None),
        ("PACS", "10.0.0.6", None),
        ("PACS", "::ffff:10.0.0.5", PACS),
        ("SCANNER", "10.1.200.7", WARD),
        ("SCANNER", "10.9.9.9", WARD),
        ("SCANNER", "10.2.0.1", None),
        ("SCANNER", "fe80::1%eth0", None),
        ("", "10.0.0.5", None),
    ],
)
def test_a_caller_is_known_by_title_and_address(
    title: str, address: str, expected: Peer | None
) -> None:
    assert match_peer((PACS, WARD), title, address) is expected


def test_the_first_peer_that_fits_is_the_one() -> None:
    second = Peer(name="second", ae_title="PACS", host="10.0.0.5")

    assert match_peer((PACS, second), "PACS", "10.0.0.5") is PACS


def test_a_host_name_matches_what_it_resolves_to_and_nobody_without_a_resolver() -> None:
    def resolve(host: str) -> list[str]:
        return ["10.3.3.3", "2001:db8::7"] if host == NAMED.host else []

    assert match_peer((NAMED,), "NAMED", "10.3.3.3", resolve) is NAMED
    assert match_peer((NAMED,), "NAMED", "2001:db8::7", resolve) is NAMED
    assert match_peer((NAMED,), "NAMED", "10.3.3.4", resolve) is None
    assert match_peer((NAMED,), "NAMED", "10.3.3.3") is None


def test_a_peer_without_ae_title_never_calls_over_dimse() -> None:
    web = Peer(name="web", host="10.0.0.5", http_user="web")

    assert match_peer((web,), "", "10.0.0.5") is None
    assert match_http_user((PACS, web), "web") is web
    assert match_http_user((PACS, web), "") is None


@pytest.mark.parametrize(
    "mistake",
    [{"name": ""}, {"ae_title": "X" * 17}, {"ae_title": "A\\B"}, {"port": 0}, {"port": 70000}],
)
def test_a_peer_cannot_be_built_wrong(mistake: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Peer"):
        Peer(**{"name": "x", "ae_title": "X", "host": "h", **mistake})  # type: ignore[arg-type]


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        Peer(name="x", ae_title="X", host="h", allow_from=("10.0.0.0/33",))


@pytest.mark.parametrize(
    ("text", "is_title"), [("A", True), ("X" * 16, True), (" ", False), ("", False), ("Ä", False)]
)
def test_ae_titles_are_short_and_printable(text: str, is_title: bool) -> None:
    assert is_ae_title(text) is is_title


def test_loopback_is_this_machine_in_both_families() -> None:
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("10.0.0.1")
