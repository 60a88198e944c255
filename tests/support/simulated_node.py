"""A node in this process whose clock the test moves: an hour passes in a call.

The ingest stamps what comes in with the same clock that the tick, the deliveries and the retention
are given. Only leases count by the database's own clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from node.database.engine import reading
from node.domain.errors import InstanceRejected
from node.domain.instance import Ending, Forced, Origin, SeriesRow, Transport
from node.domain.reasons import reasons_to_json
from node.jobs.outbox import Outbox
from node.jobs.tables import job, match, outbox, result
from node.pipeline.build import plan
from node.pipeline.deliver import delivery_deps, send_leased
from node.pipeline.settle import Settler, settle_deps
from node.receive.ingest import Carried
from node.spool.arrivals import Arrivals
from node.words import show_delivery, show_job, show_match, show_series
from tests.support.clock import MovedClock
from tests.support.node_in_process import MODELS_PROBE, NodeInProcess, SharedWorker, node_in_process
from tests.support.phantoms import Phantom

CT_RULE = {"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": ["shelf"]}


def ct(series: str = "1", *, slices: int = 8, study: str = "1", **attributes: object) -> Phantom:
    """A small series; other attributes leave its UIDs and pixels as they are."""
    shape = (slices, 24, 28)
    return Phantom(
        study=study,
        series=series,
        shape=shape,
        spacing_mm=(200.0 / slices, 10.0, 11.0),
        attributes=tuple(attributes.items()),
    )


@dataclass
class SimulatedNode:
    """A node with its roads, loops and tables at hand.

    Args:
        shelf: The folder that results are delivered to.
    """

    node: NodeInProcess
    shelf: Path
    carried: dict[str, Carried] = field(default_factory=dict)

    # --- time and loops --------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.node.clock()

    def pass_time(self, seconds: float) -> None:
        """Let everything that the node is told about time be later."""
        self.node.clock.pass_time(seconds)

    def tick(self, after_s: float = 0.0) -> None:
        """One tick, after a while."""
        self.pass_time(after_s)
        self.node.door.index.flush()
        self.node.settler.tick(self.now)

    def settle(self) -> None:
        """Ticks until what arrived is quiet for long enough."""
        self.tick()
        self.tick(self.node.plan.policy.quiet_max_s + 1)

    def run(self) -> None:
        """Settle, do all jobs, deliver."""
        self.settle()
        self.node.work()
        self.deliver()

    def deliver(self) -> None:
        """The delivery loop until nothing is due."""
        deps = delivery_deps(self.node.plan, self.node.engine)
        while leased := deps.outbox.lease_delivery("deliver", 60.0, now=self.now):
            deps.outbox.record(leased.id, "deliver", send_leased(leased, deps), now=self.now)

    def start_again(self) -> None:
        """The route process starts anew and knows what the database knows."""
        self.node.restart_settling()

    def reconfigure(self, **keys: Any) -> None:
        """Another configuration over the same data, as SIGHUP loads it."""
        path = self.node.data_dir.parent / "node.yaml"
        path.write_text(_text(self.node.data_dir, self.shelf, keys))
        self.node.plan = plan(path, environ={})
        self.node.reconfigure()

    def another_settler(self) -> Settler:
        """A second route process on the same database."""
        return Settler(settle_deps(self.node.plan, self.node.engine))

    # --- roads -----------------------------------------------------------------------------------

    def receive(
        self,
        instances: Iterable[bytes | Dataset],
        *,
        end: str | None = Ending.RELEASED,
        caller: str = "PACS",
        peer: str = "",
    ) -> str:
        """Instances over one association that then ends, or stays open; its id."""
        index = self.node.door.index
        origin = Origin(
            transport=Transport.DIMSE,
            association_id="",
            peer=peer,
            calling_ae_title=caller,
            called_ae_title="SEGNODE",
            address="127.0.0.1",
        )
        association_id = index.opened(origin)
        self.bring(association_id, instances, caller=caller, peer=peer)
        if end is not None:
            self.close(association_id, end)
        return association_id

    def close(self, association_id: str, end: str = Ending.RELEASED) -> None:
        """End an association, as the road that served it does."""
        carried = self.carried.pop(association_id, Carried())
        self.node.door.index.closed(
            association_id,
            Ending(end),
            brought=carried.series,
            losses=carried.losses,
        )

    def bring(
        self,
        association_id: str,
        instances: Iterable[bytes | Dataset],
        *,
        caller: str = "PACS",
        peer: str = "",
    ) -> None:
        """More instances over an open association; what the ingest refuses is lost."""
        carried = self.carried.setdefault(association_id, Carried())
        for number, instance in enumerate(instances, 1):
            arrival = self.node.door.ingest.begin_file(
                Origin(
                    transport=Transport.DIMSE,
                    association_id=association_id,
                    peer=peer,
                    calling_ae_title=caller,
                    called_ae_title="SEGNODE",
                    address="127.0.0.1",
                ),
                source=f"part {number} of request {association_id}",
            )
            arrival.write(instance if isinstance(instance, bytes) else part10(instance))
            try:
                carried.note(arrival.finish())
            except InstanceRejected:
                carried.losses += 1

    # --- what came of it -------------------------------------------------------------------------

    def series(self, phantom: Phantom) -> SeriesRow:
        row = Arrivals(self.node.engine).series(phantom.uid("series"))
        assert row is not None, "the series has no row"
        return row

    def decide(self, phantom: Phantom, what: str) -> None:
        """What ``segnode series proceed|rerun|discard`` writes down."""
        Arrivals(self.node.engine).force(phantom.uid("series"), Forced(what))

    def table(self, name: str) -> list[dict[str, Any]]:
        """All rows of a table as the API shows them."""
        tables = {each.name: each for each in (match, job, result, outbox)}
        statement = select(tables[name]).order_by(tables[name].c.id)
        with reading(self.node.engine) as connection:
            rows = [dict(row._mapping) for row in connection.execute(statement)]
        shows = {"match": show_match, "job": show_job, "outbox": show_delivery}
        return [shows[name](row) for row in rows] if name in shows else rows

    def match_states(self, rule: str = "ct") -> list[tuple[int, str]]:
        return [
            (row["revision"], row["state"]) for row in self.table("match") if row["rule"] == rule
        ]

    def segmentations(self) -> list[Dataset]:
        """All SEG objects that were made, in that order."""
        folder = self.node.plan.results_folder
        rows = [row for row in self.table("result") if row["form"] == "seg"]
        return [dcmread(folder / row["file_name"]) for row in rows]

    def delivered(self) -> set[str]:
        """SOP Instance UIDs of what lies in the shelf."""
        return {str(dcmread(path).SOPInstanceUID) for path in self.shelf.rglob("*.dcm")}

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.node.engine, self.node.plan.config.digest)


def said(row: SeriesRow) -> str:
    """What people are told of a series."""
    values = {each.name: getattr(row, each.name) for each in fields(row)}
    values |= {"reasons": reasons_to_json(row.reasons), "gate": None}
    return str(show_series(values)["sentence"])


def part10(instance: Dataset) -> bytes:
    """A data set with its File Meta Information as a file."""
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def simulated_node(
    folder: Path, worker: SharedWorker, *, clock: MovedClock | None = None, **keys: Any
) -> Iterator[SimulatedNode]:
    """A fresh node with the test models, a rule for CT, and a folder as destination.

    Args:
        keys: Of the configuration, over these defaults.
    """
    shelf = folder / "shelf"
    shelf.mkdir()
    with node_in_process(folder, _keys(shelf, keys), worker, clock) as node:
        yield SimulatedNode(node, shelf)


def _keys(shelf: Path, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "models_dirs": [str(MODELS_PROBE)],
        "destinations": {
            "shelf": {"kind": "folder", "path": str(shelf), "layout": "{SOPInstanceUID}.dcm"}
        },
        "rules": [CT_RULE],
        **keys,
    }


def _text(data_dir: Path, shelf: Path, keys: Mapping[str, Any]) -> str:
    # JSON is YAML
    return json.dumps({"data_dir": str(data_dir), **_keys(shelf, keys)})
