"""Log lines: one line each, to stderr, as text for people or as JSON for collectors.

Lines that a peer causes name its ``address``, and are few: whoever is refused a thousand times a second
costs ``MOST_OF_ADDRESS`` lines a minute and one with the number of the others.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from threading import Timer
from typing import TextIO

import pydicom.config

from node.observe import counts

# a minute's lines about one address, and about all: what a peer does must not fill the disk
MOST_OF_ADDRESS = 20
MOST_OF_ALL = 600
MINUTE_S = 60.0
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


class FewLines:
    """The first lines of a minute about each address, and then how many were left out.

    Lines that have no ``address`` always pass: no peer causes them.

    Args:
        now: A clock that does not go back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began_s = now()
        self._passed = Counter[str]()
        self._all_passed = 0
        self._left_out = Counter[str]()

    @property
    def is_leaving_out(self) -> bool:
        """Whether lines were left out of which nobody was told yet."""
        return bool(self._left_out)

    def of(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        """What to write in place of a line."""
        if self._now() - self._began_s >= MINUTE_S:
            yield from self.summary()
        address = record.__dict__.get("address")
        if address is None:
            yield record
        elif self._passed[address] < MOST_OF_ADDRESS and self._all_passed < MOST_OF_ALL:
            self._passed[address] += 1
            self._all_passed += 1
            yield record
        else:
            counts.add(counts.LOG_LINES_LEFT_OUT)
            # so that a crowd of addresses is not remembered one by one
            self._left_out[address if address in self._passed else "others"] += 1

    def summary(self) -> Iterator[logging.LogRecord]:
        """One line for each address of which lines were left out; a new minute begins."""
        left_out, self._left_out = self._left_out, Counter[str]()
        self._passed.clear()
        self._all_passed = 0
        self._began_s = self._now()
        for address, number in left_out.items():
            told = {
                "name": __name__,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "%d more lines about an address were left out",
                "args": (number,),
                "address": address,
            }
            yield logging.makeLogRecord(told)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes ``FewLines``; what was left out is told a minute later, whatever happens until then."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._few = FewLines()
        self._timer: Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        for each in self._few.of(record):
            super().emit(each)
        if self._few.is_leaving_out and self._timer is None:
            self._timer = Timer(MINUTE_S, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def _tell(self) -> None:
        with self.lock or nullcontext():
            self._timer = None
            for each in self._few.summary():
                super().emit(each)


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
    handler = LineHandler(sys.stderr)
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
