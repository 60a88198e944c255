"""The recipes of config/orthanc, with a real Orthanc: one SEG comes back, into its study (A2).

The files are used as they stand there; only ports and paths are put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from pydicom import dcmread

from tests.support.evil_peers import StoreScp
from tests.support.peers import Node, Orthanc, storescu
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

RECIPES = Path(__file__).parent.parent.parent / "config/orthanc"
LUA, PYTHON, DICOMWEB = "forward.lua", "forward.py", "forward_dicomweb.lua"
PASSWORD = "change-me"
FORWARDS_EVERYTHING = """
function OnStoredInstance(instanceId, tags, metadata)
  SendToModality(instanceId, 'segnode')
end
"""


def ct(name: str) -> Phantom:
    return Phantom(shape=(24, 40, 56), spacing_mm=(8.25, 5.5, 6.0), study=name, series=name)


def put_in(text: str, replacements: dict[str, object]) -> str:
    """Replace what stands in a recipe exactly once."""
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the recipe"
        text = text.replace(old, str(new))
    return text


def orthanc_of_recipe(folder: Path, node: Node, script: str) -> Orthanc:
    orthanc = Orthanc(folder / "orthanc")
    text = (RECIPES / "orthanc.json").read_text()
    lua = f'"LuaScripts": ["/etc/orthanc/{LUA}"],'
    choices = {
        LUA: lua,
        PYTHON: f'// "PythonScript": "/etc/orthanc/{PYTHON}",',
        DICOMWEB: f'// "LuaScripts": ["/etc/orthanc/{DICOMWEB}"],',
    }
    chosen = choices[script].removeprefix("// ").replace("/etc/orthanc", str(RECIPES))
    if script != LUA:
        text = put_in(text, {lua: ""})
    orthanc.text = put_in(
        text,
        {
            choices[script]: chosen,
            '"DicomPort": 4242': f'"DicomPort": {orthanc.dicom_port}',
            '"HttpPort": 8042': f'"HttpPort": {orthanc.http_port}',
            '"127.0.0.1", 11112': f'"127.0.0.1", {node.dicom_port}',
            "127.0.0.1:8080": f"127.0.0.1:{node.http_port}",
            '"StorageDirectory": "/var/lib': f'"StorageDirectory": "{folder}',
            '"IndexDirectory": "/var/lib': f'"IndexDirectory": "{folder}',
        },
    )
    return orthanc


def configure(node: Node, orthanc: Orthanc, recipe: str = "segnode.yaml") -> None:
    """Give the node its recipe, with the ports of both sides."""
    port = (
        {"port: 4242": f"port: {orthanc.dicom_port}"}
        if recipe == "segnode.yaml"
        else {"127.0.0.1:8042": f"127.0.0.1:{orthanc.http_port}"}
    )
    config = yaml.safe_load(put_in((RECIPES / recipe).read_text(), port))
    for door, own in (("dimse", node.dicom_port), ("web", node.http_port)):
        config[door]["port"] = own
    config["data_dir"] = str(node.data_dir)
    node.config = config


def send_ct(port: int, called: str, phantom: Phantom, folder: Path, calling: str = "CT1") -> None:
    paths = phantom.write(folder / f"{phantom.study}-{port}")
    assert storescu(port, called, *paths, options=("-aet", calling)) == 0


def segmentations_of(orthanc: Orthanc, phantom: Phantom) -> list[dict[str, Any]]:
    """SEG instances in the study of the phantom, as Orthanc sees the study."""
    query = {"StudyInstanceUID": phantom.uid("study")}
    found = orthanc.post("/tools/find", {"Level": "Study", "Query": query, "Expand": True})
    assert len(found) <= 1
    return [
        instance
        for series in (found[0]["Series"] if found else ())
        for instance in orthanc.get(f"/series/{series}/instances")
        if orthanc.get(f"/series/{series}")["MainDicomTags"]["Modality"] == "SEG"
    ]


def assert_one_segmentation(
    orthanc: Orthanc, node: Node, phantoms: Sequence[Phantom], *, deliveries: int | None = None
) -> None:
    """Each study holds its CT and one SEG, of that series and patient, sent once."""
    for phantom in phantoms:
        found = wait_for("a SEG in the study", lambda p=phantom: segmentations_of(orthanc, p))
        (instance,) = found
        segmentation = dcmread(BytesIO(orthanc.get(f"/instances/{instance['ID']}/file")))
        (referenced,) = segmentation.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == phantom.uid("series")
        assert segmentation.PatientID == "PHANTOM-1"
        study = orthanc.get(f"/instances/{instance['ID']}/study")
        assert len(study["Series"]) == 2
    expected = ["sent"] * (deliveries or len(phantoms))
    wait_for("the deliveries", lambda: states(node) == expected)
    assert len(orthanc.segmentations()) == len(phantoms)


def states(node: Node) -> list[str]:
    """Of all deliveries; none was tried twice."""
    rows = node.api("/deliveries")["items"]
    assert all(row["attempts"] <= 1 for row in rows)
    return [row["state"] for row in rows]


def series_states(node: Node) -> dict[str, str]:
    return {row["series_instance_uid"]: row["state"] for row in node.api("/series")["items"]}


def test_lua_forwards_a_series_and_the_segmentation_comes_back_by_c_store(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    orthanc = orthanc_of_recipe(tmp_path, node, LUA)
    configure(node, orthanc)
    first, from_node, last = ct("first"), ct("from the node"), ct("last")

    with node, orthanc:
        send_ct(orthanc.dicom_port, "ORTHANC", first, tmp_path)
        assert_one_segmentation(orthanc, node, [first])
        # the script's own guard: what came under the node's AE title is not forwarded
        send_ct(orthanc.dicom_port, "ORTHANC", from_node, tmp_path, calling="SEGNODE")
        send_ct(orthanc.dicom_port, "ORTHANC", last, tmp_path)
        assert_one_segmentation(orthanc, node, [first, last])

        assert series_states(node).keys() == {first.uid("series"), last.uid("series")}


def test_the_python_plugin_keeps_trying_until_the_node_is_there(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    orthanc = orthanc_of_recipe(tmp_path, node, PYTHON)
    configure(node, orthanc)
    sent, uploaded = ct("sent"), ct("uploaded")

    with orthanc:
        send_ct(orthanc.dicom_port, "ORTHANC", sent, tmp_path)
        for file in uploaded.files():  # as the web interface does it: there is no calling AE title
            orthanc.post("/instances", file)
        wait_for("failed jobs", lambda: orthanc_jobs(orthanc) == ["Failure"] * 2)
        orthanc.stop()  # what the plugin had planned is gone
        orthanc.start()
        with node:
            assert_one_segmentation(orthanc, node, [sent, uploaded])

            assert orthanc_jobs(orthanc) == ["Success"] * 2


def test_dicomweb_push_comes_back_by_stow(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    orthanc = orthanc_of_recipe(tmp_path, node, DICOMWEB)
    configure(node, orthanc, "segnode-dicomweb.yaml")
    node.environment = {"SEGNODE_ORTHANC_PASSWORD": PASSWORD}
    looks = {"roles": ["viewer"], "password_env": "SEGNODE_ORTHANC_PASSWORD"}
    node.config["web"]["auth"]["users"]["looks"] = (
        looks  # Orthanc itself may store and nothing else
    )
    node.credentials = f"looks:{PASSWORD}"
    phantom = ct("dicomweb")

    with node, orthanc:
        send_ct(orthanc.dicom_port, "ORTHANC", phantom, tmp_path)
        assert_one_segmentation(orthanc, node, [phantom])
        # the whole study by hand, the SEG with it: nothing is made of it again
        study = orthanc.post("/tools/lookup", phantom.uid("study").encode())[0]["ID"]
        body = {"Resources": [study], "Synchronous": True}
        answer = orthanc.post("/dicom-web/servers/segnode/stow", body)

        assert int(answer["InstancesCount"]) == len(phantom.datasets()) + 1
        wait_for("both series", lambda: set(series_states(node).values()) == {"complete"})
        assert len(series_states(node)) == 2
        assert node.api("/jobs")["total"] == 1
        assert_one_segmentation(orthanc, node, [phantom])


def test_storescu_to_the_node_comes_back_to_the_senders_peer(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc")
    node = Node(tmp_path / "node")
    here = {"host": "127.0.0.1"}
    with StoreScp(ae_title="RECORDER").listening() as recorder:
        node.config = {
            "peers": {
                "CT1": {"ae_title": "CT1", **here, "reply_to": "archive"},
                "ARCHIVE": {"ae_title": "ORTHANC", **here, "port": orthanc.dicom_port},
                "RECORDER": {"ae_title": "RECORDER", **here, "port": recorder.port},
            },
            "destinations": {"archive": {"kind": "dimse", "peer": "ARCHIVE"}},
            "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue"}],
        }
        replied, direct = ct("reply_to"), ct("direct")

        with node, orthanc:
            send_ct(orthanc.dicom_port, "ORTHANC", replied, tmp_path)
            send_ct(node.dicom_port, "SEGNODE", replied, tmp_path, calling="CT1")
            send_ct(node.dicom_port, "SEGNODE", direct, tmp_path, calling="RECORDER")
            assert_one_segmentation(orthanc, node, [replied], deliveries=2)

            ((sop_instance_uid, data_set),) = recorder.stored
            assert sop_instance_uid in str(node.api("/results")["items"])
            assert direct.uid("series").encode() in data_set


def test_an_orthanc_that_sends_everything_back_makes_no_loop(tmp_path: Path) -> None:
    """F70: the naive forwarding script, which has no guard."""
    node = Node(tmp_path / "node")
    script = tmp_path / "everything.lua"
    script.write_text(FORWARDS_EVERYTHING)
    orthanc = Orthanc(
        tmp_path / "orthanc",
        modalities={"segnode": ["SEGNODE", "127.0.0.1", node.dicom_port]},
        options={"LuaScripts": [str(script)]},
    )
    node.config = {
        "peers": {
            "ORTHANC": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
        },
        "rules": [{"name": "everything", "when": {"PatientID": {"present": True}}, "run": "probe"}],
        "models_dirs": [str(RECIPES.parent.parent / "tests/support/models_probe")],
    }
    phantom = ct("loop")

    with node, orthanc:
        send_ct(orthanc.dicom_port, "ORTHANC", phantom, tmp_path)
        assert_one_segmentation(orthanc, node, [phantom])
        (segmentation,) = (dcmread(BytesIO(file)) for file in orthanc.segmentations())
        returned = segmentation.SeriesInstanceUID
        wait_for("its return", lambda: series_states(node).get(returned) == "complete")

        (match,) = node.api(f"/series/{returned}")["matches"]
        assert match["state"] == "not_an_input"
        assert node.api("/jobs")["total"] == 1
        assert len(orthanc.segmentations()) == 1


def orthanc_jobs(orthanc: Orthanc) -> list[str]:
    jobs = [orthanc.get(f"/jobs/{job}") for job in orthanc.get("/jobs")]
    return [job["State"] for job in jobs if job["Type"] == "DicomModalityStore"]
