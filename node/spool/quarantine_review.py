"""The operator's side of quarantine: list, show, accept, discard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select, update

from node.database.engine import rows_of, writing
from node.domain.errors import InstanceRejected, NodeError, Status
from node.domain.instance import Origin
from node.domain.received import Received
from node.spool.files import Spool
from node.spool.index import Index
from node.spool.parts import HEAD_BYTES, InstanceRecord, read_record
from node.spool.tables import quarantine

# answers that a person may overrule, for the bytes themselves are sound
_OVERRULABLE = (Status.SAME_UID_OTHER_PIXELS, Status.PATIENT_MIX_UP)


class NotInQuarantine(NodeError):
    """No kept row of that number: it never was, or was accepted or discarded before."""

    def __init__(self, row_id: int) -> None:
        super().__init__(f"{row_id} is not in quarantine")
        self.row_id = row_id


class CannotBeFreed(NodeError):
    """Accepting would come to nothing: the ingest refuses the instance still."""

    def __init__(self, row_id: int, obstacle: str) -> None:
        super().__init__(f"{row_id} cannot be accepted: {obstacle}")
        self.row_id = row_id
        self.obstacle = obstacle


CheckFile = Callable[[Path], object]


def obstacle_to(row: Mapping[str, Any], folder: Path, check_file: CheckFile) -> str:
    """Why ``accept`` cannot take a refused instance in; empty where it can.

    Args:
        row: Of the table of what was refused.
        folder: Where the refused files lie.
        check_file: What the strict ingest says of a file today; raises InstanceRejected.
    """
    path = folder / str(row["file_name"])
    if row["state"] != "kept":
        return f"it was {row['state']}"
    if not path.is_file():
        return "its file is gone"
    if row["dimse_status"] in _OVERRULABLE:
        return ""
    try:
        check_file(path)
    except InstanceRejected as rejection:
        return f"{rejection.reason}; have the sender mend it and send it again"
    return ""


@dataclass(frozen=True, slots=True)
class QuarantineReview:
    """Decisions of a person over refused instances.

    Args:
        ingest_file: Sends a file through the strict ingest; raises InstanceRejected.
        check_file: The same, and keeps nothing.
    Raises:
        NotInQuarantine: From all that takes a number: there is no kept row of it.
    """

    spool: Spool
    index: Index
    ingest_file: Callable[[Path, Origin], object]
    check_file: CheckFile

    def rows(self, *, limit: int = 1000) -> Sequence[Row[Any]]:
        """What is kept, the newest first."""
        kept = select(quarantine).where(quarantine.c.state == "kept")
        return rows_of(self.index.engine, kept.order_by(quarantine.c.id.desc()).limit(limit))

    def show(self, row_id: int) -> Row[Any]:
        kept = select(quarantine).where(quarantine.c.id == row_id, quarantine.c.state == "kept")
        for row in rows_of(self.index.engine, kept):
            if self._path(row).exists():
                return row
        raise NotInQuarantine(row_id)

    def accept(self, row_id: int) -> None:
        """Keep an instance after all.

        A conflict or a mix-up of patients is overruled: the bytes are sound, and a person has
        looked. Anything else goes through the strict ingest again, which may have learnt more.

        Raises:
            CannotBeFreed: The ingest refuses it still; it stays as it is.
            InstanceRejected: Only the spool could tell that it cannot be kept, for want of room or
                because another instance has its UID; it stays in quarantine, under a new number
                where the reason is a new one.
        """
        row = self.show(row_id)
        obstacle = obstacle_to(row._asdict(), self.spool.quarantine.folder, self.check_file)
        if obstacle:
            raise CannotBeFreed(row_id, obstacle)
        path = self._path(row)
        head = read_record(path)
        if row.dimse_status in _OVERRULABLE:
            self._overrule(path, head)
        else:
            self._ingest_again(row_id, path, head)
        self.index.flush()
        self._finish(row_id, path, "accepted")

    def discard(self, row_id: int) -> None:
        """Delete a refused instance."""
        self._finish(row_id, self._path(self.show(row_id)), "discarded")

    def _path(self, row: Row[Any]) -> Path:
        return self.spool.quarantine.folder / str(row.file_name)

    def _overrule(self, path: Path, head: InstanceRecord) -> None:
        known = {each.name for each in fields(Received)} - {"notes"}
        received = Received(**{name: getattr(head, name) for name in known})
        part = self.spool.new_part()
        try:
            with path.open("rb") as file:
                file.seek(HEAD_BYTES)
                while piece := file.read(1 << 20):
                    part.write(piece)
            self.spool.keep(part, received, head.origin, is_overruled=True)
        finally:
            part.discard()

    def _ingest_again(self, row_id: int, path: Path, head: InstanceRecord) -> None:
        try:
            self.ingest_file(path, head.origin)
        except InstanceRejected as rejection:
            if rejection.quarantine:
                # the ingest put a copy aside, with a row of its own
                self._finish(row_id, path, "discarded")
            raise

    def _finish(self, row_id: int, path: Path, state: str) -> None:
        kept = (quarantine.c.id == row_id) & (quarantine.c.state == "kept")
        with writing(self.index.engine) as connection:
            connection.execute(update(quarantine).where(kept).values(state=state))
        path.unlink(missing_ok=True)
