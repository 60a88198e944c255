"""Reading commands and decisions, over a data folder that a real run left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom.config import disable_value_validation

from node.database import pages
from node.domain.health import COUNTED
from tests.cli.conftest import CHEST, FLAT, MAGNETIC, Segnode
from tests.support.phantoms import Phantom

READING = [
    ("series", "list"),
    ("series", "show", CHEST.uid("series")),
    ("quarantine", "list"),
    ("quarantine", "show", "1"),
    ("jobs", "list"),
    ("jobs", "list", "--matches"),
    ("jobs", "show", "1"),
    ("deliveries", "list"),
    ("models", "list"),
    ("models", "show", "ct_tissue"),
    ("models", "check", "ct_tissue"),
    ("status",),
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_every_reading_command_answers_people_and_programs(
    segnode: Segnode, config: Path, command: tuple[str, ...]
) -> None:
    as_text = segnode(*command, "--config", config)
    as_json = segnode(*command, "--config", config, "--json")

    assert (as_text.code, as_json.code) == (0, 0)
    assert len(as_text.out.splitlines()) >= 1
    assert as_json.json


@pytest.mark.parametrize("command", READING[:8] + READING[-1:], ids=" ".join)
def test_a_folder_where_no_node_ran_is_named_in_one_sentence(
    segnode: Segnode, tmp_path: Path, command: tuple[str, ...]
) -> None:
    answer = segnode(*command)

    assert answer.code == 1
    assert answer.out == ""
    assert "no node has run in" in answer.err
    assert not (tmp_path / "segnode-data").exists()


def test_series_list_names_each_series_with_its_evidence(segnode: Segnode, config: Path) -> None:
    rows = segnode("series", "list", "--config", config, "--json").json["items"]

    assert {row["series_instance_uid"] for row in rows} == {
        phantom.uid("series") for phantom in (CHEST, FLAT, MAGNETIC)
    }
    assert {row["state"] for row in rows} == {"complete"}


def test_series_show_tells_what_each_rule_made_of_it(segnode: Segnode, config: Path) -> None:
    answer = segnode("series", "show", FLAT.uid("series"), "--config", config)

    assert "no Frame of Reference" in answer.out
    assert "parked" in answer.out


def test_series_list_filters_by_state(segnode: Segnode, config: Path) -> None:
    held = segnode("series", "list", "--state", "held", "--config", config, "--json")

    assert held.json == {"items": [], "total": 0, "total_is_exact": True, "next": None}


LISTS = [
    ("series", "list"),
    ("jobs", "list", "--matches"),
    ("deliveries", "list"),
    ("quarantine", "list"),
]


@pytest.mark.parametrize("command", LISTS[:2], ids=" ".join)
def test_a_list_that_is_cut_says_how_it_goes_on(
    segnode: Segnode, config: Path, command: tuple[str, ...]
) -> None:
    ask = (*command, "--limit", "2", "--config", config)

    whole = segnode(*command, "--config", config, "--json").json
    first = segnode(*ask, "--json").json
    told = segnode(*ask).err
    rest = segnode(*ask, "--after", first["next"], "--json").json

    assert first["items"] + rest["items"] == whole["items"]
    assert told == f"2 of 3; --limit shows more, --after {first['next']} goes on\n"
    assert (rest["total"], rest["next"]) == (3, None)
    assert segnode(*ask, "--after", first["next"]).err == ""


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_what_no_list_gave_as_its_end_ends_with_2(
    segnode: Segnode, config: Path, command: tuple[str, ...]
) -> None:
    answer = segnode(*command, "--after", "there", "--config", config)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "after: no place in this list; take it as the page before gave it\n"


def test_a_list_too_long_to_count_says_more_than(
    segnode: Segnode, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", 2)

    answer = segnode("series", "list", "--limit", "1", "--config", config)

    assert answer.err.startswith("1 of more than 2; ")


@pytest.mark.parametrize("what", ["proceed", "rerun", "discard"])
def test_a_decision_about_a_series_waits_for_the_node(
    segnode: Segnode, config: Path, what: str
) -> None:
    uid = FLAT.uid("series")

    answer = segnode("series", what, uid, "--config", config)

    shown = segnode("series", "show", uid, "--config", config, "--json").json
    assert answer.code == 0
    assert shown["forced"] == what


def test_what_is_refused_can_be_discarded_once(segnode: Segnode, config: Path) -> None:
    first = segnode("quarantine", "discard", "1", "--config", config)
    second = segnode("quarantine", "discard", "1", "--config", config)

    left = segnode("quarantine", "list", "--config", config, "--json").json
    assert (first.code, second.code) == (0, 1)
    assert left["total"] == 0
    assert "not in quarantine" in second.err


def test_what_is_still_malformed_is_not_accepted(segnode: Segnode, config: Path) -> None:
    (row,) = segnode("quarantine", "list", "--config", config, "--json").json["items"]
    shown = segnode("quarantine", "show", "1", "--config", config)

    answer = segnode("quarantine", "accept", "1", "--config", config)

    kept = segnode("quarantine", "list", "--config", config, "--json").json
    assert answer.code == 1
    assert kept["items"] == [row]
    assert row["obstacle"]
    # said beforehand, and said again
    assert f"cannot take it: {row['obstacle']}" in shown.out
    assert row["obstacle"] in answer.err


def test_a_job_shows_stages_result_and_delivery(segnode: Segnode, config: Path) -> None:
    job = segnode("jobs", "show", "1", "--config", config, "--json").json
    text = segnode("jobs", "show", "1", "--config", config).out

    assert {"read", "infer", "encode", "verify"} <= job["stages"].keys()
    assert job["deliveries"][0]["state"] == "sent"
    assert "infer" in text


def test_a_job_that_is_done_is_not_cancelled(segnode: Segnode, config: Path) -> None:
    answer = segnode("jobs", "cancel", "1", "--config", config)

    assert answer.code == 1
    assert answer.err == "job 1 is done and cannot be cancelled\n"


def test_parked_matches_are_listed_with_the_command_that_frees_them(
    segnode: Segnode, config: Path
) -> None:
    answer = segnode("jobs", "list", "--matches", "--state", "parked", "--config", config)

    assert f"segnode series rerun {FLAT.uid('series')}" in answer.out


def test_a_result_goes_to_one_more_destination(segnode: Segnode, config: Path) -> None:
    deliveries = segnode("deliveries", "list", "--config", config, "--json").json["items"]

    answer = segnode(
        "deliveries", "send", deliveries[0]["result_id"], "--to", "shelf", "--config", config
    )

    waiting = segnode("deliveries", "list", "--state", "waiting", "--config", config, "--json").json
    assert answer.code == 0
    assert [row["destination"] for row in waiting["items"]] == ["shelf"]


def test_all_that_waits_for_a_destination_is_retried(segnode: Segnode, config: Path) -> None:
    deliveries = segnode("deliveries", "list", "--config", config, "--json").json["items"]
    segnode("deliveries", "send", deliveries[0]["result_id"], "--to", "shelf", "--config", config)

    answer = segnode("deliveries", "retry", "--destination", "shelf", "--config", config)

    assert answer.code == 0
    assert "1 deliveries to shelf" in answer.err


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("jobs", "list", "--state", "sleeping"), "'sleeping' is none of"),
        (("series", "list", "--state", "sleeping"), "sleeping"),
        (("deliveries", "retry"), "give either the ID"),
        (("deliveries", "retry", "1", "--destination", "shelf"), "give either the ID"),
        (("deliveries", "retry", "--destination", "nowhere"), "no destination 'nowhere'"),
        (("deliveries", "send", "1", "--to", "nowhere"), "no destination 'nowhere'"),
        (("models", "show", "nothing"), "no model 'nothing'"),
        (("models", "pull", "lungs"), "no model 'lungs'"),
        (("jobs", "show", "first"), "integer"),
        (("nonsense",), "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_use_ends_with_2(
    segnode: Segnode, config: Path, command: tuple[str, ...], word: str
) -> None:
    options = () if command == ("nonsense",) else ("--config", config)

    answer = segnode(*command, *options)

    assert answer.code == 2
    assert word in answer.err
    assert answer.out == ""


@pytest.mark.parametrize(
    "command",
    [
        ("series", "show", "1.2.3"),
        ("series", "proceed", "1.2.3"),
        ("jobs", "show", "77"),
        ("jobs", "retry", "77"),
        ("quarantine", "show", "77"),
        ("deliveries", "retry", "77"),
        ("deliveries", "send", "77", "--to", "shelf"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_ends_with_1(
    segnode: Segnode, config: Path, command: tuple[str, ...]
) -> None:
    answer = segnode(*command, "--config", config)

    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1


def test_beside_a_mistake_in_the_configuration_lists_are_there(
    segnode: Segnode, config: Path
) -> None:
    config.write_text(config.read_text() + "colour: blue\n")

    answer = segnode("series", "list", "--config", config)

    assert (answer.code, answer.out != "") == (0, True)
    assert "the first at colour: segnode check-config" in answer.err


@pytest.mark.parametrize(
    "wrong", ["database: mysql://there\n", "database_env: SEGNODE_NOT_SET\n", "data_dir: [a]\n"]
)
def test_a_configuration_that_does_not_say_where_the_node_is_ends_with_2(
    segnode: Segnode, config: Path, wrong: str
) -> None:
    kept = [line for line in config.read_text().splitlines() if not line.startswith(wrong[:8])]
    config.write_text("\n".join([*kept, wrong]))

    answer = segnode("series", "list", "--config", config)

    assert answer.code == 2
    assert wrong.partition(":")[0] in answer.err


def test_the_configuration_may_be_named_in_the_environment(
    segnode: Segnode, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGNODE_CONFIG", str(config))

    assert segnode("series", "list").code == 0


def test_status_says_what_is_stuck_and_which_command_frees_it(
    segnode: Segnode, config: Path
) -> None:
    body = segnode("status", "--config", config, "--json").json
    text = segnode("status", "--config", config).out

    assert body["is_running"] is False
    assert body["series"] == {"complete": 3}
    assert (body["quarantine"], body["counted_up_to"]) == (1, COUNTED)
    assert "segnode" in body["degraded"]["parked"]
    assert body["degraded"]["parked"] in text


def test_status_of_a_full_disk_says_that_nothing_is_taken(segnode: Segnode, config: Path) -> None:
    config.write_text(config.read_text().replace("reserve_gb: 0", "reserve_gb: 1000000"))

    body = segnode("status", "--config", config, "--json").json

    assert body["takes_instances"] is False
    assert "kept in reserve" in body["degraded"]["disk"]


def test_control_characters_of_a_header_never_reach_the_terminal(
    segnode: Segnode, tmp_path: Path
) -> None:
    with disable_value_validation():
        Phantom(shape=(4, 24, 24), attributes=(("BodyPartExamined", "\x1b[31mRED"),)).write(
            tmp_path / "in"
        )
    (tmp_path / "rules.yaml").write_text(
        "rules: [{name: r, when: {BodyPartExamined: KNEE}, run: ct_tissue, send: []}]"
    )

    answer = segnode("explain", "in", "--config", "rules.yaml")

    assert answer.code == 0
    assert "RED" in answer.out
    assert "\x1b" not in answer.out


def test_a_model_folder_with_a_mistake_is_refused_with_its_path(
    segnode: Segnode, tmp_path: Path
) -> None:
    shutil.copytree(Path(__file__).parents[2] / "models" / "ct_tissue", tmp_path / "ct_tissue")
    text = (tmp_path / "ct_tissue" / "model.yaml").read_text()
    (tmp_path / "ct_tissue" / "model.yaml").write_text(
        text.replace("node.infer.ct_tissue:run", "node.infer.ct_tissue:walk")
    )

    answer = segnode("models", "check", tmp_path / "ct_tissue")

    assert answer.code == 2
    assert "runner.entry: node.infer.ct_tissue has no function walk" in answer.err
