"""The parts of the node composed in one process, over a fresh data folder, with a clock that is told.

Roads are real: a DICOM port, an HTTP port, a folder. What the processes of ``segnode serve`` do in
their loops is done here when a test says so: ``settle`` is a tick of the route process after the
quiet time, ``work`` is the work process until nothing is queued. A warm worker may be shared by many
nodes, one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from node.config import AuthConfig
from node.database.engine import reading
from node.database.migrate import migrate
from node.jobs.catalog import JobCatalog
from node.modelstore.catalog import ModelCatalog
from node.pipeline.accept import IngestService, counts_folder, open_ingest, spool_settings
from node.pipeline.build import Plan, plan
from node.pipeline.settle import SettleDeps, Settler, settle_deps
from node.pipeline.signals import Signals
from node.pipeline.work import Worker, work_deps
from node.process.admin import Admin
from node.process.health import NodeHealth
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.folder import FolderWatch, ScanReport
from node.receive.stow import StowService
from node.receive.stow_parts import PartReceiver
from node.receive.syntaxes import storage_contexts
from node.spool import tables
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard
from node.web.api import WebServices
from node.web.app import create_app
from node.words import show_job, show_match, show_series
from tests.support.clock import MovedClock
from tests.support.http_server import Site, serving
from tests.support.waiting import eventually

MODELS_PROBE = Path(__file__).resolve().parent / "models_probe"
STOW_PATH = "/dicom-web/studies"


class SharedWorker:
    """One worker with a warm child for all nodes of a test process."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def work(self, node: NodeInProcess) -> None:
        """Do every job that is queued in this node."""
        room = work_deps(node.plan, node.engine)
        if self._worker is None:
            self._worker = Worker(room, owner="work cpu", device="cpu", idle_unload_s=600)
        self._worker.use(room)
        signals = Signals()
        while self._worker.do_next(signals):
            pass

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


@dataclass
class NodeInProcess:
    """A node whose loops turn when they are told to."""

    plan: Plan
    door: IngestService
    worker: SharedWorker
    closing: ExitStack
    clock: MovedClock
    deps: SettleDeps = field(init=False)
    settler: Settler = field(init=False)

    def __post_init__(self) -> None:
        self.restart_settling()

    @property
    def engine(self) -> Engine:
        return self.door.index.engine

    @property
    def data_dir(self) -> Path:
        return self.plan.config.data_dir

    # --- roads ---------------------------------------------------------------------------------

    @cached_property
    def dicom_port(self) -> int:
        """The port of the DICOM listener, opened when it is asked for."""
        settings = DimseSettings(port=0, ae_titles=self.plan.config.ae_titles)
        server = DimseServer(settings, self.door.ingest, self.door.index, storage_contexts())
        server.start()
        self.closing.callback(server.stop)
        return server.port

    @cached_property
    def site(self) -> Site:
        """STOW-RS and the API on an HTTP port, opened when it is asked for."""
        stow = StowService(PartReceiver(ingest=self.door.ingest, associations=self.door.index))
        self.closing.callback(stow.close)
        services = WebServices(
            spool=SpoolCatalog(self.engine),
            jobs=JobCatalog(self.engine),
            models=ModelCatalog(self.plan.models, weights_dir=self.plan.config.weights_dir),
            actions=Admin(self.plan, self.engine, self.door),
            health=NodeHealth(self.engine, SpaceGuard.of(spool_settings(self.plan.config))),
            results_dir=self.plan.results_folder,
            counts_dir=counts_folder(self.plan.config),
        )
        return self.closing.enter_context(
            serving(create_app(services, stow=stow, auth=AuthConfig()))
        )

    def scan(self, folder: Path) -> ScanReport:
        """The folder road: one scan of a folder that nobody writes to any more."""
        watch = FolderWatch(folder, self.door.ingest, self.door.index)
        return watch.scan(is_settled_at_once=True)

    # --- loops ---------------------------------------------------------------------------------

    def settle(self, after_s: float | None = None) -> None:
        """The tick, so long after now that everything that came is quiet for long enough."""
        assert eventually(lambda: all(row["closed_at"] for row in self.rows("association")))
        quiet_s = self.plan.policy.quiet_max_s + 1 if after_s is None else after_s
        self.settler.tick(self.clock() + quiet_s)

    def restart_settling(self) -> None:
        """What a route process that was started again knows: what is in the database."""
        self.deps = settle_deps(self.plan, self.engine)
        self.settler = Settler(self.deps)

    def reconfigure(self) -> None:
        """The route process goes on with another plan, as after SIGHUP."""
        self.deps = settle_deps(self.plan, self.engine)
        self.settler.use(self.deps)

    def work(self) -> None:
        """The work loop until no job is queued."""
        self.worker.work(self)

    # --- what came of it -------------------------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table of the index, when everything given to it is written."""
        self.door.index.flush()
        with reading(self.engine) as connection:
            found = connection.execute(select(tables.metadata.tables[table]))
            rows = [dict(row._mapping) for row in found]
        if table != "series":
            return rows
        catalog = SpoolCatalog(self.engine)
        whole = (catalog.get_series(row["series_instance_uid"]) for row in rows)
        return [show_series(row) for row in whole if row is not None]

    @property
    def jobs(self) -> list[Mapping[str, Any]]:
        catalog = JobCatalog(self.engine)
        rows = catalog.list_jobs().rows
        return [
            show_job(whole) for row in rows if (whole := catalog.get_job(row["id"])) is not None
        ]

    def matches(self, series_instance_uid: str) -> list[dict[str, Any]]:
        found = SpoolCatalog(self.engine).get_series(series_instance_uid)
        if found is None:
            return []
        study = found["study_instance_uid"]
        rows = JobCatalog(self.engine).matches_of_series(series_instance_uid, study)
        return [show_match(row) for row in rows]

    def segmentations(self) -> list[Path]:
        """The files of all SEG objects that are results."""
        results = JobCatalog(self.engine).list_results().rows
        folder = self.plan.results_folder
        return [folder / row["file_name"] for row in results if row["form"] == "seg"]

    def api(self, path: str) -> Any:
        answer = self.site.request("GET", f"/api/v1{path}")
        assert answer.status == 200, answer
        return json.loads(answer.body)


@contextmanager
def node_in_process(
    folder: Path, config: Mapping[str, Any], worker: SharedWorker, clock: MovedClock | None = None
) -> Iterator[NodeInProcess]:
    """A node over a fresh data folder below ``folder``."""
    path = folder / "node.yaml"
    # JSON is YAML
    path.write_text(json.dumps({"data_dir": str(folder / "data"), **config}))
    checked = plan(path, environ={})
    checked.results_folder.mkdir(parents=True, exist_ok=True)
    engine = checked.open_engine()
    migrate(engine)
    engine.dispose()
    clock = clock or MovedClock()
    with open_ingest(checked, clock) as door, ExitStack() as closing:
        yield NodeInProcess(checked, door, worker, closing, clock)
