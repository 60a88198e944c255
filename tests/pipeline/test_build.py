"""From a file to what is served: rules against models, destinations by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node.deliver.dicomweb import DicomwebDestination
from node.deliver.dimse import DimseDestination
from node.deliver.folder import FolderDestination
from node.domain.completion_policy import Late, OnGiveUp
from node.domain.errors import ConfigInvalid
from node.domain.job import Priority
from node.pipeline.build import Plan, plan
from tests.support.node_in_process import MODELS_PROBE

PEER = {"P": {"ae_title": "PACS", "host": "10.0.0.5", "port": 104}}
RULE: dict[str, Any] = {"name": "ct", "when": {"Modality": "CT"}, "run": "probe"}


def planned(folder: Path, **keys: Any) -> Plan:
    path = folder / "node.yaml"
    whole = {"rules": [RULE], "models_dirs": [str(MODELS_PROBE)], **keys}
    path.write_text(json.dumps(whole))  # JSON is YAML
    return plan(path, environ={"SECRET": "hidden"})


def test_a_rule_becomes_a_condition_a_model_and_where_to_send(tmp_path: Path) -> None:
    rule = {**RULE, "priority": "urgent", "parameters": {"method": "otsu"}}

    (active,) = planned(tmp_path, rules=[rule]).rules

    assert (active.rule.name, active.model.name, active.send) == ("ct", "probe", ("sender",))
    assert (active.priority, dict(active.parameters)) == (Priority.URGENT, {"method": "otsu"})
    assert active.model.inputs["image"].min_slices == 3


def test_completion_keys_become_the_policy(tmp_path: Path) -> None:
    given = {"quiet_s": 2, "quiet_max_s": 9, "late": "hold", "on_give_up": "proceed"}

    policy = planned(tmp_path, completion=given).policy

    assert (policy.quiet_s, policy.quiet_max_s, policy.release_settle_s) == (2, 9, 1)
    assert (policy.late, policy.on_give_up) == (Late.HOLD, OnGiveUp.PROCEED)


def test_each_kind_of_destination_is_made_and_each_peer_is_one(tmp_path: Path) -> None:
    auth = {"kind": "token", "token_env": "SECRET"}
    found = planned(
        tmp_path,
        peers=PEER,
        destinations={
            "pacs": {"kind": "dimse", "peer": "P"},
            "web": {"kind": "dicomweb", "url": "https://x.example/dicom-web", "auth": auth},
            "shelf": {"kind": "folder", "path": str(tmp_path)},
        },
    ).destinations

    kinds = {name: type(each) for name, each in found.items()}
    assert kinds == {
        "peer:P": DimseDestination,
        "pacs": DimseDestination,
        "web": DicomwebDestination,
        "shelf": FolderDestination,
    }
    assert "hidden" not in repr(found)


def test_the_rules_of_a_study_need_each_role_of_the_model_and_no_other(tmp_path: Path) -> None:
    study = {"fixed": {"Modality": "CT"}, "other": {"Modality": "MR"}}

    with pytest.raises(ConfigInvalid) as invalid:
        planned(tmp_path, rules=[{"name": "set", "study": study, "run": "pair"}])

    assert dict(invalid.value.mistakes) == {
        "rules.0.study.other": "pair has no role 'other': take it out",
        "rules.0.study": "pair needs role 'moving': say which series it is",
    }


def test_a_role_that_the_model_can_never_take_is_named(tmp_path: Path) -> None:
    rules = [
        {"name": "good", "when": {"Modality": ["CT", "MR"]}, "run": "ct_tissue"},
        {"name": "bad", "when": {"Modality": ["PT", "MR"]}, "run": "ct_tissue"},
    ]

    with pytest.raises(ConfigInvalid) as invalid:
        planned(tmp_path, rules=rules)

    ((path, sentence),) = invalid.value.mistakes
    assert path == "rules.1.when"
    assert sentence.startswith("can never fire: ")
    assert "ct_tissue" in sentence
