"""A receiver that was killed leaves files without rows: they get them before the next tick."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete

from node.database.engine import writing
from node.domain.instance import Transport
from node.pipeline.build import plan
from node.pipeline.signals import Signals
from node.process.roles import IndexCheck
from node.spool.arrivals import Arrivals
from node.spool.tables import instance
from tests.support.instances import SERIES_UID, ct_slice, opened_node


def test_the_index_is_checked_again_when_somebody_began_to_listen(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        f"data_dir: {tmp_path / 'data'}\n"
        "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue}]\n"
    )
    (tmp_path / "data").mkdir()
    current = plan(config)
    with opened_node(tmp_path / "data") as node:
        node.store(ct_slice())
        node.index.flush()
        engine = node.index.engine
        check, arrivals = IndexCheck(current, engine, Signals()), Arrivals(engine)

        def lose_the_row() -> None:
            with writing(engine) as connection:
                connection.execute(delete(instance))

        def has_a_row() -> bool:
            check.verify()
            return bool(arrivals.arrivals_of(SERIES_UID))

        lose_the_row()
        assert has_a_row()
        lose_the_row()
        assert not has_a_row()  # nobody was killed: files are not listed at each tick
        node.index.listening(Transport.DIMSE)
        assert has_a_row()
