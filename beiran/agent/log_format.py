"""The log on standard error: lines of text, or JSON."""

import logging
import sys
from datetime import UTC, datetime

import msgspec

from beiran.settings.settings import Settings


class TextFormatter(logging.Formatter):
    """``2026-11-23T02:15:22Z warning engine is down: …``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback if there is one."""
        text = f"{_at(record)} {record.levelname.lower()} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``at``, ``level``, ``logger``, ``message``, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: JSON escapes line breaks."""
        fields = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def set_up_logging(settings: Settings) -> None:
    """Log in the settings' format and level from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for noisy in ("trio-websocket", "urllib3", "docker", "httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _at(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
