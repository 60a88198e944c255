"""Small instances for tests of the ingest, and a spool to put them in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import Engine, select

from node.database import engine as database
from node.database.engine import open_engine, reading
from node.domain.instance import Origin, Transport
from node.domain.limits import IngestLimits
from node.receive.ingest import Announced, Ingest, Receipt
from node.receive.syntaxes import NATIVE_SYNTAXES
from node.spool import tables
from node.spool.files import Spool, SpoolFolders, SpoolSettings, Watermark
from node.spool.index import Index

STUDY_UID, SERIES_UID = "1.2.826.0.1.1", "1.2.826.0.1.1.1"
ORIGIN = Origin(
    transport=Transport.DIMSE,
    association_id="0" * 32,
    peer="PACS",
    calling_ae_title="MAINPACS",
    called_ae_title="SEGNODE",
    address="127.0.0.1",
)
COMPRESSED_SYNTAXES = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)


def ct_slice(number: int = 1, *, side: int = 16) -> Dataset:
    """One CT image of a ramp, with as little around it as the Standard lets stand."""
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"{SERIES_UID}.{number}"
    image.Modality = "CT"
    image.PatientName = "Phantom^Ramp"
    image.PatientID = "P1"
    image.StudyInstanceUID = STUDY_UID
    image.SeriesInstanceUID = SERIES_UID
    image.FrameOfReferenceUID = f"{STUDY_UID}.9"
    image.InstanceNumber = number
    image.ImagePositionPatient = [0.0, 0.0, float(number)]
    image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    image.PixelSpacing = [0.7, 0.7]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = side
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    ramp = np.arange(side * side, dtype="<i2") + number
    image.PixelData = ramp.tobytes()
    image["PixelData"].VR = "OW"
    return image


def data_set_bytes(
    dataset: Dataset, *, is_implicit: bool = False, is_little_endian: bool = True
) -> bytes:
    """A data set as C-STORE carries it."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = is_implicit
    buffer.is_little_endian = is_little_endian
    if not is_little_endian and "PixelData" in dataset:
        # pydicom writes the bytes of OW as they are
        words = np.frombuffer(bytes(dataset.PixelData), "<u2")
        given, dataset = dataset, Dataset()  # a shallow copy would share its elements
        dataset.update(given)
        dataset.add_new("PixelData", "OW", words.astype(">u2").tobytes())
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def part10_bytes(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """A data set as a file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def announced(
    dataset: Dataset, transfer_syntax_uid: str = str(ExplicitVRLittleEndian)
) -> Announced:
    """What a truthful C-STORE command says of a data set."""
    return Announced(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=transfer_syntax_uid,
    )


@dataclass(frozen=True, slots=True)
class Node:
    """An ingest over a spool over a database, as one process of the node has them."""

    engine: Engine
    index: Index
    spool: Spool
    ingest: Ingest

    def store(self, dataset: Dataset, data: bytes | None = None) -> Receipt:
        """Send a data set by C-STORE."""
        arrival = self.ingest.begin(ORIGIN, announced(dataset))
        arrival.write(data_set_bytes(dataset) if data is None else data)
        return arrival.finish()

    def store_file(self, data: bytes, *, study_instance_uid: str | None = None) -> Receipt:
        """Send a file, as folder and STOW do."""
        arrival = self.ingest.begin_file(ORIGIN, study_instance_uid=study_instance_uid)
        arrival.write(data)
        return arrival.finish()

    def rows(self, table: str) -> list[dict[str, object]]:
        """The rows of a table of the index, after everything given to it is written."""
        self.index.flush()
        with reading(self.engine) as connection:
            found = connection.execute(select(tables.metadata.tables[table]))
            return [dict(row._mapping) for row in found]

    def files(self) -> list[Path]:
        """Every file of the spool but series markers."""
        root = self.spool.instances.parent
        return sorted(
            path
            for folder in ("incoming", "instances", "quarantine")
            for path in (root / folder).rglob("*")
            if path.is_file()
        )


@contextmanager
def opened_node(
    folder: Path,
    *,
    watermark: Watermark | None = None,
    limits: IngestLimits | None = None,
    transfer_syntaxes: tuple[str, ...] = (*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES),
    batch_s: float = 0.005,
    url: str = "",
    **settings: Any,
) -> Iterator[Node]:
    """A node over a folder; opened twice it is two processes of one node.

    Args:
        url: Of its database; empty: SQLite in the folder.
    """
    engine = open_engine(url or f"sqlite:///{folder / 'index.sqlite'}")
    for metadata in (tables.metadata, database.metadata):
        metadata.create_all(engine)
    index = Index(engine, batch_s=batch_s)
    spool = Spool(
        SpoolSettings(
            folders=SpoolFolders.of(folder),
            watermark=watermark or Watermark(reserve_gb=0.01, max_used_percent=99.5),
            **settings,
        ),
        index,
    )
    ingest = Ingest(spool, transfer_syntaxes=transfer_syntaxes, limits=limits)
    try:
        yield Node(engine, index, spool, ingest)
    finally:
        index.close()
        spool.close()
        engine.dispose()
