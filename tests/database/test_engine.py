"""What the database says of its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from node.database.engine import open_engine, writing
from node.spool.tables import metadata, series


def test_an_error_says_nothing_of_a_patient(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'test.sqlite'}")
    metadata.create_all(engine)
    row = {"series_instance_uid": "1.2", "patient_name": "Geheim^Gerda"}

    with pytest.raises(IntegrityError) as raised, writing(engine) as connection:
        connection.execute(series.insert().values(row))

    assert "Geheim" not in str(raised.value)
    engine.dispose()
