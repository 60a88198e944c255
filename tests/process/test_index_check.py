"""A receiver that was killed leaves files without rows: they get them before the next tick."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete

from node.database.engine import writing
from node.domain.instance import Transport
from node.pipeline.build import plan
from node.pipeline.signals import Signals
from node.process.roles import IndexCheck
from node.spool.arrivals import Arrivals
from node.spool.tables import instance
from tests.support.instances import SERIES_UID, ct_slice, opened_node


def _config(folder: Path) -> Path:
    (folder / "data").mkdir()
    config = folder / "node.yaml"
    config.write_text(
        f"data_dir: {folder / 'data'}\n"
        "rules: [{name: ct, when: {Modality: CT}, run: ct_tissue}]\n"
    )
    return config


def test_the_index_is_checked_again_when_somebody_began_to_listen(tmp_path: Path) -> None:
    current = plan(_config(tmp_path))
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


def test_nothing_is_compared_while_somebody_deletes_files(tmp_path: Path) -> None:
    current = plan(_config(tmp_path))
    with opened_node(tmp_path / "data") as node, ThreadPoolExecutor(1) as pool:
        node.store(ct_slice())
        node.index.flush()
        check, arrivals = IndexCheck(current, node.index.engine, Signals()), Arrivals(node.engine)
        with writing(node.engine) as connection:
            connection.execute(delete(instance))

        with check.at_rest:
            verified = pool.submit(check.verify)
            with pytest.raises(TimeoutError):
                verified.result(0.5)
            assert arrivals.arrivals_of(SERIES_UID) == []
        verified.result()

        assert arrivals.arrivals_of(SERIES_UID)
