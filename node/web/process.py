"""The process "web": everything that speaks HTTP, STOW-RS included."""

from __future__ import annotations

import threading

from node.domain.instance import Transport
from node.jobs.catalog import JobCatalog
from node.modelstore.catalog import ModelCatalog
from node.pipeline.accept import (
    DRAIN_S,
    Replan,
    open_ingest,
    spool_settings,
    wait_while_settings_stay,
)
from node.pipeline.build import Plan
from node.pipeline.signals import Signals
from node.process.admin import Admin, NodeHealth
from node.receive.stow import StowService
from node.receive.stow_parts import PartReceiver
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard
from node.web.api import WebServices
from node.web.app import create_app
from node.web.server import make_server


def web(plan: Plan, replan: Replan, signals: Signals) -> None:
    """Serve until told to stop, or until a reload changes the doors; requests in hand are finished."""
    with open_ingest(plan) as door:
        stow = StowService(
            PartReceiver(ingest=door.ingest, associations=door.index),
            peers=plan.config.peers.values(),
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
            health=NodeHealth(
                engine, SpaceGuard(plan.config.data_dir, spool_settings(plan.config).watermark)
            ),
            results_dir=plan.results_folder,
        )
        server = make_server(
            create_app(services, stow=stow, auth=plan.config.web.auth, hosts=plan.config.web.hosts),
            host=plan.config.web.host,
            port=plan.config.web.port,
            tls=plan.config.web.tls,
            drain_s=DRAIN_S,
        )

        def stop() -> None:
            wait_while_settings_stay(plan, replan, signals)
            server.should_exit = True

        door.index.listening(Transport.STOW)
        threading.Thread(target=stop, daemon=True).start()
        server.run()
        stow.close()
