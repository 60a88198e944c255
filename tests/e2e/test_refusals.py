"""What must not be served is refused at the start, with its path and what to do about it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.cli import main
from tests.support.node_in_process import MODELS_PROBE
from tests.support.peers import Node, echo, free_port, store
from tests.support.phantoms import Phantom
from tests.support.simulated_node import ct
from tests.support.waiting import wait_for

RULE: dict[str, Any] = {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}
PAIR: dict[str, Any] = {"name": "set", "run": "pair", "send": []}
BOTH = {"fixed": {"Modality": "CT"}, "moving": {"Modality": "MR"}}


def rule(**keys: Any) -> dict[str, Any]:
    return {"rules": [{**RULE, **keys}]}


def pair(study: Any) -> dict[str, Any]:
    return {"rules": [{**PAIR, "study": study}]}


REFUSED = [
    ({"dimse": {"prot": 1}}, "dimse.prot", "unknown key; did you mean port?"),
    (rule(when={"Modalty": "CT"}), "rules.0.when.Modalty", "did you mean Modality?"),
    (
        rule(when={"Modality": "CT", "slices": {"min": 9, "max": 3}}),
        "rules.0.when.slices",
        "min 9 is above max 3",
    ),
    (rule(when={"Modality": "MR"}), "rules.0.when", "can never fire: "),
    (rule(run="ct_tisue"), "rules.0.run", "there is no model 'ct_tisue'; there are: "),
    (rule(run="pair"), "rules.0.when", "pair takes several series: use study (fixed, moving)"),
    (rule(send=["pacs"]), "rules.0.send.0", "no destination pacs; known: sender"),
    (
        {"destinations": {"pacs": {"kind": "dimse", "peer": "PACS"}}},
        "destinations.pacs.peer",
        "no peer PACS; none is configured",
    ),
    ({"rules": [RULE, RULE]}, "rules.1.name", "rules.0 has this name already: give each"),
    (pair({**BOTH, "moving": {}}), "rules.0.study.moving", "a role needs clauses, for example"),
    (pair({"fixed": BOTH["fixed"]}), "rules.0.study", "pair needs role 'moving'"),
    (pair({**BOTH, "third": {"Rows": 1}}), "rules.0.study.third", "pair has no role 'third'"),
    ({"dimse": {"host": "0.0.0.0"}}, "dimse.host", "add peers with an ae_title, or bind 127.0.0.1"),
    ({"web": {"host": "0.0.0.0"}}, "web.host", "set web.auth.kind to basic or token, or bind"),
]


@pytest.mark.parametrize(("keys", "path", "words"), REFUSED, ids=[path for _, path, _ in REFUSED])
def test_serve_refuses_with_the_path_and_check_config_says_the_same(
    keys: dict[str, Any], path: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, keys)

    served = segnode(capsys, "serve", "--config", str(config))
    checked = segnode(capsys, "check-config", str(config))

    assert served == checked
    code, out, said = served
    assert (code, out) == (2, "")
    (line,) = said.splitlines()
    assert line.startswith(f"{path}: ")
    assert words in line
    assert not (tmp_path / "data").exists()


def test_every_mistake_of_a_file_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"dimse": {"prot": 1}, **rule(when={"Modalty": "CT"}, send=["pacs"])}

    code, _, said = segnode(capsys, "check-config", str(write(tmp_path, keys)))

    assert code == 2
    paths = [line.partition(":")[0] for line in said.splitlines()]
    assert paths == ["dimse.prot", "rules.0.send.0", "rules.0.when.Modalty"]


def test_a_good_file_is_called_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = segnode(capsys, "check-config", str(write(tmp_path, pair(BOTH))))

    assert (code, said) == (0, "")
    assert out.startswith("good: 1 rules, ")


@pytest.mark.parametrize("transport", ["dimse", "web"])
def test_a_port_in_use_stops_the_start(tmp_path: Path, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = write(tmp_path, {transport: {"port": port}})

        code, said = real_serve(config)

    assert code == 2
    assert said == (
        f"{transport}.port: cannot listen on 127.0.0.1:{port} (address already in use): "
        "stop the other program or choose another port\n"
    )


def test_a_second_serve_on_one_data_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path,
) -> None:
    with Node(tmp_path / "first", {"rules": [RULE]}) as node:
        keys = {"data_dir": str(node.data_dir), "dimse": {"port": free_port()}}
        config = write(tmp_path, {**keys, "web": {"port": free_port()}})

        code, said = real_serve(config)

        assert code == 2
        assert said == f"data_dir: another segnode serve runs on {node.data_dir}; stop it first\n"
        assert echo(node.dicom_port) == 0


def test_sighup_takes_a_valid_file_and_leaves_an_invalid_one(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("old", "new")}
    for folder in folders.values():
        folder.mkdir()
    node = Node(
        tmp_path / "node",
        {
            "models_dirs": [str(MODELS_PROBE)],
            "completion": {"release_settle_s": 0.3},
            "destinations": {
                name: {"kind": "folder", "path": str(folder), "layout": "{SeriesInstanceUID}.dcm"}
                for name, folder in folders.items()
            },
            "rules": [{**RULE, "name": "old", "run": "probe", "send": ["old"]}],
        },
    ).start()
    try:
        reload(node, {"rules": [{**RULE, "run": "probe", "send": ["nowhere"]}]})
        wait_for("the refusal", lambda: "rules.0.send.0: no destination nowhere" in node.log())
        by_the_old = arrived(node, ct("a"), folders["old"])

        reload(node, {"rules": [{**RULE, "name": "new", "run": "probe", "send": ["new"]}]})
        wait_for("the reload", lambda: re.search(r"info +reload$", node.log(), re.MULTILINE))
        by_the_new = arrived(node, ct("b"), folders["new"])

        assert (by_the_old, by_the_new) == (1, 1)
        assert len(list(folders["old"].iterdir())) == 1
        assert "old configuration stays" in node.log()
    finally:
        node.kill()


def segnode(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, stdout, stderr."""
    before = sys.argv
    sys.argv = ["segnode", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def real_serve(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "node", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def write(folder: Path, keys: dict[str, Any]) -> Path:
    path = folder / "node.yaml"
    body = {
        "data_dir": str(folder / "data"),
        "models_dirs": [str(MODELS_PROBE)],
        "rules": [RULE],
        **keys,
    }
    path.write_text(json.dumps(body))  # JSON is YAML
    return path


def reload(node: Node, keys: dict[str, Any]) -> None:
    node.config.update(keys)
    node.write_config()
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGHUP)


def arrived(node: Node, phantom: Phantom, folder: Path) -> int:
    """Send a series; how many results lie in the folder once there is one."""
    assert set(store(node.dicom_port, phantom.files())) == {0}
    wait_for(f"a result in {folder.name}", lambda: list(folder.glob("*.dcm")))
    return len(list(folder.glob("*.dcm")))
