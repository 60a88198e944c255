"""The doctor: does this machine, and do its neighbours, do what the configuration expects of them?

Every check ends in one sentence. Nothing is stored anywhere but, where asked for, one synthetic
instance in the node itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE
from requests.auth import HTTPBasicAuth
from sqlalchemy.exc import SQLAlchemyError

from node.config import NodeConfig
from node.database.engine import epoch_s, reading
from node.deliver import DicomwebDestination, DimseDestination, FolderDestination
from node.deliver.dicomweb import Basic
from node.deliver.send_folder import FolderSender, SendState
from node.domain.errors import JobFailed
from node.domain.peers import match_peer
from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, uid_from
from node.infer.assets import check_assets
from node.infer.registry import ModelSpec
from node.modelstore.readiness import shortcomings
from node.pipeline.accept import spool_settings
from node.pipeline.build import Plan
from node.pipeline.deliver import Destination
from node.receive.dimse_transfer import VERIFICATION_SOP_CLASS_UID
from node.receive.syntaxes import decodable_syntaxes
from node.spool.space import SpaceGuard

_CONNECT_S = 3.0
_EXPECTED_CODECS = (
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
)
_UNWELCOME = (401, 403, 404)
_SERVER_ERROR = 500
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound here


class Health(StrEnum):
    """How a check ended; ``warning`` is for what need not be wrong, such as a node not running."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check and its sentence."""

    name: str
    health: Health
    sentence: str


def examine(plan: Plan, *, sends: bool) -> Iterator[Check]:
    """Every check, as it is done.

    Args:
        sends: Whether to store one synthetic secondary capture in the node itself.
    """
    yield _check_python()
    yield _check_codecs()
    yield _check_disk(plan)
    yield _check_database(plan)
    for model in {rule.model.name: rule.model for rule in plan.rules}.values():
        yield check_model(model, plan.config)
    for name, unusable in plan.found.unusable.items():
        yield Check(name=f"model {name}", health=Health.BAD, sentence=str(unusable))
    config = plan.config
    dimse = _check_port("dimse", config.dimse.host, config.dimse.port)
    yield dimse
    yield _check_port("web", config.web.host, config.web.port)
    if sends and dimse.health is Health.GOOD:
        yield _check_store(config)
    elif sends:
        yield Check(name="store", health=Health.WARNING, sentence="the node does not run")
    for name, destination in plan.destinations.items():
        yield check_destination(name, destination)


def check_model(model: ModelSpec, config: NodeConfig) -> Check:
    """Whether a model could run: its files, each held to its hash, their licences, its libraries."""
    name = f"model {model.name}"
    found = list(shortcomings(model, config.weights_dir, config.accept_licences))
    if not found:
        try:
            check_assets(model, config.weights_dir)
        except JobFailed as error:
            found = [error.reason]
    if found:
        return Check(name=name, health=Health.BAD, sentence="; ".join(found))
    count = len(model.files) + len(model.weights)
    sentence = f"{count} files are there and the right ones" if count else "needs no other files"
    return Check(name=name, health=Health.GOOD, sentence=sentence)


def check_destination(name: str, destination: Destination) -> Check:
    """Whether a destination would take results, without sending it one."""
    match destination:
        case DimseDestination():
            health, sentence = _ask_dimse(destination)
        case DicomwebDestination():
            health, sentence = _ask_dicomweb(destination)
        case FolderDestination():
            health, sentence = _ask_folder(destination)
        case _:
            health, sentence = Health.WARNING, "this kind of destination cannot be asked"
    return Check(name=f"destination {name}", health=health, sentence=sentence)


def _check_python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check(name="python", health=Health.GOOD, sentence=f"{version} at {sys.executable}")


def _check_codecs() -> Check:
    syntaxes = decodable_syntaxes()
    missing = [uid.name for uid in _EXPECTED_CODECS if uid not in syntaxes]
    if missing:
        return Check(
            name="codecs",
            health=Health.WARNING,
            sentence=f"cannot decode {', '.join(missing)}: such instances are not negotiated",
        )
    sentence = f"{len(syntaxes)} transfer syntaxes decode"
    return Check(name="codecs", health=Health.GOOD, sentence=sentence)


def _check_disk(plan: Plan) -> Check:
    folder = plan.config.data_dir
    if not folder.is_dir():
        return Check(
            name="disk",
            health=Health.WARNING,
            sentence=f"{folder} is not there yet: segnode serve makes it",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(name="disk", health=Health.BAD, sentence=f"{folder} cannot be written")
    shortage = SpaceGuard(folder, spool_settings(plan.config).watermark).shortage
    if shortage:
        return Check(name="disk", health=Health.BAD, sentence=f"{shortage}: nothing is taken in")
    free_gb = shutil.disk_usage(folder).free / 1e9
    return Check(name="disk", health=Health.GOOD, sentence=f"{free_gb:.1f} GB free in {folder}")


def _check_database(plan: Plan) -> Check:
    url = plan.config.database_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        return Check(
            name="database", health=Health.WARNING, sentence="not there yet: segnode serve makes it"
        )
    engine = plan.open_engine()
    try:
        with reading(engine) as connection:
            epoch_s(connection)
    except SQLAlchemyError as error:
        sentence = f"cannot be read ({type(error).__name__}): see database in the configuration"
        return Check(name="database", health=Health.BAD, sentence=sentence)
    finally:
        engine.dispose()
    return Check(name="database", health=Health.GOOD, sentence=f"{engine.dialect.name} answers")


def _check_port(name: str, host: str, port: int) -> Check:
    """Whether our own node listens; one that does not run is worth a warning only."""
    try:
        with socket.create_connection((_ANY_HOST.get(host, host), port), _CONNECT_S):
            pass
    except OSError:
        sentence = f"nobody listens on {host}:{port}: segnode serve does"
        return Check(name=name, health=Health.WARNING, sentence=sentence)
    return Check(name=name, health=Health.GOOD, sentence=f"{host}:{port} is listened on")


def _check_store(config: NodeConfig) -> Check:
    """One synthetic instance to the node itself, always the same: twice is a duplicate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "doctor.dcm")
        dcmwrite(path, _secondary_capture(), enforce_file_format=True)
        sender = FolderSender(
            host=_ANY_HOST.get(config.dimse.host, config.dimse.host),
            port=config.dimse.port,
            called_ae_title=config.ae_titles[0],
            calling_ae_title=_title_to_call_with(config),
            connect_timeout_s=_CONNECT_S,
        )
        (report,) = sender.send(path)
    if report.is_stored:
        return Check(name="store", health=Health.GOOD, sentence="a synthetic instance was stored")
    if report.state is SendState.NOT_SENT:
        sentence = f"{report.comment}; this machine may be none of the peers"
        return Check(name="store", health=Health.WARNING, sentence=sentence)
    status = "" if report.status is None else f" 0x{report.status:04X}"
    return Check(
        name="store",
        health=Health.BAD,
        sentence=f"{report.state.value}{status}: {report.comment}".rstrip(": "),
    )


def _title_to_call_with(config: NodeConfig) -> str:
    """The title of a peer that may call from this machine, else the node's own."""
    for peer in config.peers.values():
        if match_peer([peer], peer.ae_title, "127.0.0.1") is not None:
            return peer.ae_title
    return config.ae_titles[0]


def _ask_dimse(destination: DimseDestination) -> tuple[Health, str]:
    """C-ECHO, and whether the peer would take a segmentation."""
    entity = AE(ae_title=destination.calling_ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = destination.connect_timeout_s
    entity.acse_timeout = destination.negotiate_timeout_s
    entity.dimse_timeout = destination.answer_timeout_s
    entity.add_requested_context(VERIFICATION_SOP_CLASS_UID)
    entity.add_requested_context(
        SegmentationStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    )
    where = f"{destination.ae_title} at {destination.host}:{destination.port}"
    association = entity.associate(
        destination.host, destination.port, ae_title=destination.ae_title
    )
    if not association.is_established:
        if association.is_rejected:
            return Health.BAD, f"{where} rejects this node: check the AE titles on both sides"
        return Health.BAD, f"{where} does not answer"
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    try:
        has_echo = (
            VERIFICATION_SOP_CLASS_UID in accepted
            and association.send_c_echo().get("Status", -1) == 0
        )
    finally:
        association.release()
    if SegmentationStorage not in accepted:
        return Health.BAD, f"{where} answers but takes no Segmentation Storage: results are blocked"
    if not has_echo:
        return Health.WARNING, f"{where} takes segmentations but answers no C-ECHO"
    return Health.GOOD, f"{where} answers C-ECHO and takes Segmentation Storage"


def _ask_dicomweb(destination: DicomwebDestination) -> tuple[Health, str]:
    """An OPTIONS request: it stores nothing, and still says who may come in."""
    url = f"{destination.url.rstrip('/')}/studies"
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(destination.ca_file) if destination.ca_file else True
        auth = destination.auth
        if isinstance(auth, Basic):
            session.auth = HTTPBasicAuth(auth.user.encode(), auth.password.encode())
        elif auth is not None:
            session.headers["Authorization"] = f"Bearer {auth.token}"
        try:
            answer = session.options(
                url,
                timeout=(destination.connect_timeout_s, destination.answer_timeout_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return Health.BAD, f"{url} does not answer ({type(error).__name__})"
    if answer.is_redirect:
        return Health.BAD, f"{url} redirects elsewhere, which is not followed: correct the URL"
    if answer.status_code in _UNWELCOME or answer.status_code >= _SERVER_ERROR:
        return Health.BAD, f"{url} answers HTTP {answer.status_code}"
    return Health.GOOD, f"{url} answers (HTTP {answer.status_code} to OPTIONS)"


def _ask_folder(destination: FolderDestination) -> tuple[Health, str]:
    if not destination.path.is_dir():
        return Health.BAD, f"{destination.path} is not there: create it, or mount it"
    if not os.access(destination.path, os.W_OK | os.X_OK):
        return Health.BAD, f"{destination.path} cannot be written"
    return Health.GOOD, f"{destination.path} can be written"


def _secondary_capture() -> Dataset:
    """A square of grey that no rule on CT or MR takes. Source: PS3.3 A.8"""
    image = Dataset()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = uid_from("segnode doctor", "instance")
    image.StudyInstanceUID = uid_from("segnode doctor", "study")
    image.SeriesInstanceUID = uid_from("segnode doctor", "series")
    image.PatientName, image.PatientID = "Doctor^Segnode", "SEGNODE-DOCTOR"
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.Modality, image.ConversionType = "OT", "SYN"
    image.SeriesDescription = "test of segnode doctor"
    image.SeriesNumber = image.InstanceNumber = 1
    image.Rows = image.Columns = 16
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelRepresentation = 0
    image.PixelData = b"\x80" * (16 * 16)
    image["PixelData"].VR = "OB"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta = meta
    return image
