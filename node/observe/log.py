"""Log lines: one line each, to stderr, as text for people or as JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pydicom.config

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """``time level role message key=value ...``; control characters from peers are escaped."""

    def __init__(self, *, as_json: bool = False) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line for one record, its traceback indented below."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        message = record.getMessage()
        if self._as_json:
            line = json.dumps(
                {"at": when, "level": record.levelname.lower(), "logger": record.name,
                 "message": message, **facts},
                default=str,
            )  # fmt: skip
        else:
            pairs = "".join(f" {key}={_plain(value)}" for key, value in facts.items())
            line = f"{when} {record.levelname.lower():7} {_plain(message)}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def keep_values_out() -> None:
    """Keep header values out of what libraries say.

    pydicom's warnings quote values, which may be a patient's: it takes them as they are, in silence.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def configure_logging(*, level: str = "INFO", as_json: bool = False) -> None:
    """Send all log lines of this process to stderr; libraries speak only when something is wrong."""
    keep_values_out()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("node").setLevel(level)
    # these print data sets, addresses or every retry: errors only
    for name in ("pynetdicom", "highdicom", "apscheduler", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _plain(value: object) -> str:
    text = str(value)
    is_one_value = " " not in text or "=" not in text
    return text if text.isprintable() and is_one_value else repr(text)
