"""A result object as a file, and destinations to send it to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from node.deliver.dimse import DimseDestination
from node.domain.delivery import DeliverableObject
from node.domain.peers import Peer
from tests.support.evil_peers import segmentation

MakeObject = Callable[..., DeliverableObject]


@pytest.fixture
def make_object(tmp_path: Path) -> MakeObject:
    """Writes a SEG object to a file and says what it is."""
    return partial(make_deliverable, tmp_path)


def make_deliverable(folder: Path, number: int = 1, size_bytes: int = 4096) -> DeliverableObject:
    uid = f"1.2.826.0.1.3680043.10.9.{number}"
    data = segmentation(uid, size_bytes)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"object{number}.dcm"
    data.save_as(path, enforce_file_format=True)
    return DeliverableObject(
        path=str(path),
        size_bytes=path.stat().st_size,
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=uid,
        series_instance_uid=str(data.SeriesInstanceUID),
        study_instance_uid=str(data.StudyInstanceUID),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        model="ct_tissue",
    )


@pytest.fixture
def dimse() -> Callable[..., DimseDestination]:
    """A destination on a loopback port, with short timeouts."""

    def make(port: int, **options: object) -> DimseDestination:
        peer = {"name": "P", "ae_title": "EVIL", "host": "127.0.0.1", "port": port, "tls": None}
        settings = {
            "name": "pacs",
            "peer": Peer(**{key: options.pop(key, value) for key, value in peer.items()}),
            "calling_ae_title": "SEGNODE",
            "connect_timeout_s": 2.0,
            "negotiate_timeout_s": 2.0,
            "answer_timeout_s": 5.0,
        }
        return DimseDestination(**(settings | options))

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pynetdicom 3.0.4 leaves a socket that could not connect to the garbage collector."""
    leak = "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(leak))
