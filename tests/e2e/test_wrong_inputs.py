"""Every wrong input of ``tests/wrong_inputs``, by each road: what became of its series, in codes and words.

All cases of a road go through one node, each by an association, a request or a folder of its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from node.cli import app_of
from node.domain.errors import InstanceRejected
from node.jobs.catalog import JobCatalog
from node.receive.dry import DryRun
from node.receive.syntaxes import Decodable
from node.spool.catalog import SpoolCatalog
from node.words import show_match, show_series
from tests.support import raw_dimse as raw
from tests.support.http_server import MULTIPART, body_of
from tests.support.node_in_process import (
    MODELS_PROBE,
    STOW_PATH,
    NodeInProcess,
    SharedWorker,
    node_in_process,
)
from tests.wrong_inputs import losses, plausible, quantities, tolerance
from tests.wrong_inputs.case import Case, File

# headers of the field are read as they are
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

CASES: Sequence[Case] = (
    *losses.CASES,
    *quantities.CASES,
    *tolerance.CASES,
    *plausible.CASES,
)
EXPLICIT = raw.EXPLICIT_VR_LITTLE_ENDIAN


@dataclass(frozen=True)
class Became:
    """What a node says of the series of a case."""

    state: str
    reasons: Sequence[str]
    sentence: str


def parametrized(transport: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if transport in case.transports]
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    shared = SharedWorker()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def by_dimse(
    tmp_path_factory: pytest.TempPathFactory, worker: SharedWorker
) -> Iterator[NodeInProcess]:
    with served(tmp_path_factory.mktemp("dimse"), worker) as node:
        for case in CASES:
            if "dimse" in case.transports:
                assert send(node.dicom_port, case.files()) == [f.is_kept for f in case.files()], (
                    case.name
                )
        finish(node)
        yield node


@pytest.fixture(scope="module")
def by_stow(
    tmp_path_factory: pytest.TempPathFactory, worker: SharedWorker
) -> Iterator[NodeInProcess]:
    with served(tmp_path_factory.mktemp("stow"), worker) as node:
        for case in CASES:
            if "stow" in case.transports:
                files = case.files()
                body = body_of(*(file.content for file in files))
                answer = node.site.request("POST", STOW_PATH, body, {"Content-Type": MULTIPART})
                kept = len(
                    Dataset.from_json(answer.body.decode()).get("ReferencedSOPSequence") or []
                )
                assert kept == sum(file.is_kept for file in files), case.name
        finish(node)
        yield node


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of one ``segnode run`` over a folder for each case."""
    folder = tmp_path_factory.mktemp("run")
    for number, case in enumerate(CASES):
        if "run" in case.transports:
            write(folder / "in" / f"case{number:03}", case.files())
    rules = folder / "rules.yaml"
    rules.write_text(json.dumps({"data_dir": str(folder / "data"), **config()}))  # JSON is YAML
    words = ["run", str(folder / "in"), str(folder / "out"), "--config", str(rules), "--json"]
    done = CliRunner().invoke(app_of(), words)
    assert done.exit_code == 1, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@parametrized("dimse")
def test_by_c_store(case: Case, by_dimse: NodeInProcess) -> None:
    assert_became(case, of_node(by_dimse, case))


@parametrized("stow")
def test_by_stow(case: Case, by_stow: NodeInProcess) -> None:
    assert_became(case, of_node(by_stow, case))


@parametrized("run")
def test_by_run(case: Case, run: dict[str, Any]) -> None:
    uid = series_of(case)
    (row,) = [row for row in run["series"] if row["series_instance_uid"] == uid]
    (outcome,) = [one for one in run["outcomes"] if one["series_instance_uid"] == uid]

    assert_became(
        case, Became(outcome["state"], [*row["reasons"], *outcome["reasons"]], outcome["sentence"])
    )
    assert outcome["is_failure"] == bool(case.exit_code)


@pytest.mark.parametrize("case", CASES[:1], ids=[case.name for case in CASES[:1]])
def test_the_exit_code_tells_of_one_series_that_is_held(case: Case, tmp_path: Path) -> None:
    write(tmp_path / "in", case.files())
    words = ["run", str(tmp_path / "in"), str(tmp_path / "out"), "--model", case.model]

    held = CliRunner().invoke(app_of(), words)
    proceeded = CliRunner().invoke(app_of(), [*words, "--proceed"])

    assert (held.exit_code, proceeded.exit_code) == (1, 0)
    assert "go on without them with: --proceed" in held.stdout
    assert "made of 12 of 24 images" in proceeded.stdout


def assert_became(case: Case, became: Became) -> None:
    told = f"{case.name}: {became}; before: {case.old}"
    assert became.state == case.state, told
    assert set(case.reasons) <= set(became.reasons), told
    assert case.sentence in became.sentence, told


def of_node(node: NodeInProcess, case: Case) -> Became:
    uid = series_of(case)
    found = SpoolCatalog(node.engine).get_series(uid)
    assert found is not None, f"{case.name}: there is no series"
    series = show_series(found)
    matches = [
        show_match(match)
        for match in JobCatalog(node.engine).matches_of_series(uid, found["study_instance_uid"])
        if match["rule"] == case.model or match["rule"] == ""
    ]
    if series["state"] != "complete" or not matches:
        return Became(series["state"], series["reasons"], series["sentence"])
    return Became(
        matches[0]["state"], [*series["reasons"], *matches[0]["reasons"]], matches[0]["sentence"]
    )


def series_of(case: Case) -> str:
    return str(first_headers()[case.name].SeriesInstanceUID)


def header_of(content: bytes) -> Dataset | None:
    """As pydicom has it, or where that makes nothing of it the node's own ingest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
            if "SeriesInstanceUID" in header or content[128:132] != b"DICM":
                return header
        except Exception:  # noqa: BLE001 - whatever pydicom makes of a broken file
            header = None
        with NamedTemporaryFile(suffix=".dcm") as file:
            Path(file.name).write_bytes(content)
            dry = DryRun(Decodable())
            try:
                dry.check(Path(file.name))
            except InstanceRejected:
                return header
            return dry.header()


def served(folder: Path, worker: SharedWorker) -> Any:
    return node_in_process(folder, config(), worker)


def config() -> dict[str, Any]:
    """A rule for the model of every case, by the modality of its files."""
    pairs = sorted({(case.model, str(first_headers()[case.name].Modality)) for case in CASES})
    return {
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "models_dirs": [str(MODELS_PROBE)],
        "rules": [
            {"name": model, "when": {"Modality": modality}, "run": model, "send": []}
            for model, modality in pairs
        ],
    }


@cache
def first_headers() -> dict[str, Dataset]:
    """Case -> the header of its first file that names a series."""
    found: dict[str, Dataset] = {}
    for case in CASES:
        headers = (header_of(file.content) for file in case.files())
        found[case.name] = next(h for h in headers if h is not None and "SeriesInstanceUID" in h)
    return found


def finish(node: NodeInProcess) -> None:
    node.settle()
    node.work()


def write(folder: Path, files: Sequence[File]) -> None:
    folder.mkdir(parents=True)
    for number, file in enumerate(files, 1):
        (folder / f"{number:04}.dcm").write_bytes(file.content)


def send(port: int, files: Sequence[File]) -> list[bool]:
    """Each file by C-STORE on one association, whatever its bytes; whether it was kept."""
    offers = sorted({_offer(file.content) for file in files})
    with raw.RawAssociation(port, timeout_s=60) as association:
        answer = association.request([(name, (syntax,)) for name, syntax in offers])
        assert all(result == 0 for result, _ in raw.accepted(answer).values())
        kept = []
        for number, file in enumerate(files, 1):
            header = header_of(file.content)
            uid = str(header.get("SOPInstanceUID", "")) if header is not None else ""
            offer = _offer(file.content)
            response = association.store(
                _data_set(file.content),
                uid or f"1.2.3.{number}",
                sop_class_uid=offer[0],
                context_id=2 * offers.index(offer) + 1,
            )
            kept.append(raw.status(response) == 0)
        association.release()
    return kept


def _offer(content: bytes) -> tuple[str, str]:
    header = header_of(content)
    if header is None:
        return raw.CT_IMAGE_STORAGE, EXPLICIT
    sop_class_uid = str(header.get("SOPClassUID", "")) or raw.CT_IMAGE_STORAGE
    return sop_class_uid, str(header.file_meta.get("TransferSyntaxUID", EXPLICIT))


def _data_set(content: bytes) -> bytes:
    """What follows the File Meta Information; of what has none, all of it."""
    if content[128:132] != b"DICM":
        return content
    return content[144 + int.from_bytes(content[140:144], "little") :]
