"""Log lines on stderr: one JSON object or one line of text each."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from legation.clock import to_rfc3339

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

# What every record carries; whatever else it has was given as `extra` and is data.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def configure(*, level: str, form: str) -> None:
    """Send the root logger's records to stderr.

    Args:
        level: one of `LEVELS`.
        form: one of `FORMATS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Both narrate every connection at INFO, which is news to nobody.
    for chatty in ("uvicorn", "grpclib", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def set_level(level: str) -> None:
    """Change the level of a running process."""
    logging.root.setLevel(level.upper())


class JSONFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        return json.dumps(
            {
                "time": _time_of(record),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
                **_fields_of(record),
                **({"trace": self.formatException(record.exc_info)} if record.exc_info else {}),
            },
            default=str,
            ensure_ascii=False,
        )


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields of `extra` as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = " ".join(
            f"{name}={json.dumps(value, default=str, ensure_ascii=False)}"
            for name, value in _fields_of(record).items()
        )
        # A message may quote a peer: it must not be able to forge a line of its own.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time_of(record)} {record.levelname.lower():<7} {message}"
        line = f"{line} {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time_of(record: logging.LogRecord) -> str:
    return to_rfc3339(datetime.fromtimestamp(record.created, UTC))


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _ORDINARY}
