"""The process "web": everything that speaks HTTP, STOW-RS included."""

from __future__ import annotations

import threading

from node.domain.instance import Transport
from node.jobs.catalog import JobCatalog
from node.modelstore.catalog import ModelCatalog
from node.observe import counts
from node.pipeline.accept import (
    DRAIN_S,
    Replan,
    counts_folder,
    open_ingest,
    spool_settings,
    wait_while_settings_stay,
)
from node.pipeline.build import Plan
from node.pipeline.signals import Signals
from node.process.admin import Admin
from node.process.health import NodeHealth
from node.receive.stow import StowService
from node.receive.stow_parts import PartReceiver
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard
from node.web.api import WebServices
from node.web.app import create_app
from node.web.server import make_server


def web(plan: Plan, replan: Replan, signals: Signals) -> None:
    """Serve until told to stop, or until a reload changes the doors; requests in hand are finished."""
    counts.OF_PROCESS.keep_in(counts_folder(plan.config), "web")
    with open_ingest(plan) as door:
        limits = plan.config.web.limits
        stow = StowService(
            PartReceiver(ingest=door.ingest, associations=door.index, limits=limits),
            peers=plan.config.peers.values(),
            limits=limits,
        )
        engine = door.index.engine
        services = WebServices(
            spool=SpoolCatalog(engine),
            jobs=JobCatalog(engine),
            models=ModelCatalog(
                plan.models,
                weights_dir=plan.config.weights_dir,
                accepted=plan.config.accept_licences,
            ),
            actions=Admin(plan, engine, door),
            health=NodeHealth(engine, SpaceGuard.of(spool_settings(plan.config)), plan.config),
            results_dir=plan.results_folder,
            counts_dir=counts_folder(plan.config),
        )
        server = make_server(
            create_app(services, stow=stow, auth=plan.config.web.auth, hosts=plan.config.web.hosts),
            host=plan.config.web.host,
            port=plan.config.web.port,
            tls=plan.config.web.tls,
            limits=limits,
            drain_s=DRAIN_S,
        )

        def stop() -> None:
            wait_while_settings_stay(plan, replan, signals)
            server.should_exit = True

        door.index.listening(Transport.STOW)
        threading.Thread(target=stop, daemon=True).start()
        server.run()
        stow.close()
