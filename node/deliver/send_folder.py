"""A folder of instances by C-STORE, one report per instance: what ``segnode send`` does.

Data sets travel as they lie in their files. A refused instance is reported and the next one sent; a
lost line costs the instance in hand, and the rest goes over a new association.

Source: PS3.4 Annex B, PS3.7 9.1.1, PS3.8 9.3.2 (128 contexts), PS3.10 7.1 (files).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from node.deliver.destination import is_warning
from node.deliver.dimse import DimseDestination, rejection_of, send_c_store
from node.domain.errors import Status
from node.domain.reading import UNREADABLE, why_unreadable

_CONTEXTS_PER_ASSOCIATION = 128
# (implicit VR, little endian) as pydicom guesses it where no file meta tells
_SYNTAXES: Mapping[tuple[bool | None, bool | None], UID] = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


class SendState(StrEnum):
    """What became of one file."""

    STORED = "stored"
    WARNED = "warned"
    REFUSED = "refused"
    NO_CONTEXT = "no context"
    LINE_LOST = "line lost"
    NOT_SENT = "not sent"
    NOT_DICOM = "not dicom"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """One line of the report.

    Args:
        status: The peer's C-STORE status, or None where it gave none.
        comment: The peer's Error Comment, or our own words where the peer said nothing.
    """

    path: Path
    state: SendState
    sop_instance_uid: str = ""
    status: int | None = None
    comment: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance now."""
        return self.state in (SendState.STORED, SendState.WARNED)


def send_folder(destination: DimseDestination, folder: Path) -> Iterator[SendReport]:
    """Send every instance below a folder (or one file); reports come as answers come."""
    files: list[_File] = []
    for path in _paths(folder):
        try:
            files.append(_read_identity(path))
        except UNREADABLE as error:
            yield SendReport(path=path, state=SendState.NOT_DICOM, comment=why_unreadable(error))
    for batch in _batches(files):
        yield from _send_batch(destination, batch)


def _send_batch(destination: DimseDestination, files: Sequence[_File]) -> Iterator[SendReport]:
    """Send what fits one negotiation; a line that is lost is opened again once per instance."""
    waiting = list(files)
    while waiting:
        contexts = dict.fromkeys(file.context for file in waiting)
        try:
            association = destination.associate(
                [build_context(*context) for context in contexts], destination.answer_timeout_s
            )
        except socket.gaierror:
            reason = "no association could be opened: the host name has no address"
        else:
            reason = ""
            if not association.is_established:
                no_tls = destination.why_no_tls(association)
                reason = f"no TLS: {no_tls}" if no_tls else _why_not_established(association)
        if reason:
            yield from (file.report(SendState.NOT_SENT, comment=reason) for file in waiting)
            return
        try:
            for message_id in count(1):
                report = _store(association, waiting.pop(0), message_id % 0xFFFF or 1)
                yield report
                if not waiting or report.state is SendState.LINE_LOST:
                    break
        finally:
            if association.is_established:
                association.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    has_file_meta: bool

    @property
    def context(self) -> tuple[str, str]:
        return self.sop_class_uid, self.transfer_syntax_uid

    def payload(self) -> Path | Dataset:
        """The file itself, or its data set where no file meta says what it is."""
        return self.path if self.has_file_meta else _bare_data_set(self.path)

    def report(self, state: SendState, status: int | None = None, comment: str = "") -> SendReport:
        uid = self.sop_instance_uid
        return SendReport(
            path=self.path, state=state, sop_instance_uid=uid, status=status, comment=comment
        )


def _paths(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")


def _read_identity(path: Path) -> _File:
    try:
        meta = read_file_meta_info(path)
        identity = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
        syntax, has_file_meta = meta.TransferSyntaxUID, True
    except InvalidDicomError:
        bare = _bare_data_set(path)
        identity, has_file_meta = (bare.SOPClassUID, bare.SOPInstanceUID), False
        syntax = bare.file_meta.TransferSyntaxUID
    return _File(
        path=path,
        sop_class_uid=str(identity[0]),
        sop_instance_uid=str(identity[1]),
        transfer_syntax_uid=str(syntax),
        has_file_meta=has_file_meta,
    )


def _bare_data_set(path: Path) -> Dataset:
    """A file without preamble; pydicom finds out how it is encoded."""
    data_set = dcmread(path, force=True)
    if "SOPInstanceUID" not in data_set:
        raise InvalidDicomError("the file holds no instance")
    if "TransferSyntaxUID" not in data_set.file_meta:
        data_set.file_meta.TransferSyntaxUID = _SYNTAXES[data_set.original_encoding]
    return data_set


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Files in their order, cut where one negotiation has no room for another context."""
    batch: list[_File] = []
    contexts: set[tuple[str, str]] = set()
    for file in files:
        if file.context not in contexts and len(contexts) == _CONTEXTS_PER_ASSOCIATION:
            yield batch
            batch, contexts = [], set()
        batch.append(file)
        contexts.add(file.context)
    if batch:
        yield batch


def _store(association: Association, file: _File, message_id: int) -> SendReport:
    accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
    if file.context not in accepted:
        comment = f"the peer does not take {file.sop_class_uid} as {file.transfer_syntax_uid}"
        return file.report(SendState.NO_CONTEXT, comment=comment)
    if not association.is_established:
        return file.report(SendState.LINE_LOST, comment="the peer ended the association")
    answer = send_c_store(association, file.payload(), message_id)
    if "Status" not in answer:
        return file.report(SendState.LINE_LOST, comment="no answer came")
    status = int(answer.Status)
    if status == Status.SUCCESS:
        return file.report(SendState.STORED, status)
    state = SendState.WARNED if is_warning(status) else SendState.REFUSED
    return file.report(state, status, str(answer.get("ErrorComment", "")))


def _why_not_established(association: Association) -> str:
    rejection = rejection_of(association)
    if rejection is not None:
        return f"the peer rejects the association: {rejection.reason_str.lower()}"
    if association.acceptor.primitive is not None:
        return "the peer takes none of these SOP classes and transfer syntaxes"
    return "no association could be opened: nobody answers there"
