"""The node's road from the socket to a durable file and an index row, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path

from node.database.engine import open_engine
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.ingest import Ingest
from node.receive.syntaxes import decodable_syntaxes, storage_contexts
from node.spool import tables
from node.spool.files import Spool, SpoolSettings
from node.spool.index import Index
from node.spool.space import Watermark


def serve(folder: Path, port: int) -> None:
    """Serve until SIGTERM, then drain."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    engine = open_engine(f"sqlite:///{folder / 'segnode.sqlite'}")
    tables.metadata.create_all(engine)
    index = Index(engine)
    watermark = Watermark(reserve_gb=0.1, max_used_percent=99.0)
    spool = Spool(SpoolSettings(folder=folder / "spool", watermark=watermark), index)
    ingest = Ingest(spool, transfer_syntaxes=decodable_syntaxes())
    server = DimseServer(DimseSettings(port=port), ingest, index, storage_contexts())
    server.start()
    signal.sigwait(ends)
    server.drain(10.0)
    spool.close()
    index.close()
