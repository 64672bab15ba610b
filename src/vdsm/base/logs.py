"""Logging: one line per record, with the flow id of the request it belongs to, secrets masked, rotation friendly.

    2026-01-31 12:00:00.123Z INFO  [a1b2c3] vdsm.virt.fleet created VM ... in 0.412 s

The flow id and the caller travel in context variables; ``base.threads.Pool`` carries them into its workers.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextvars import ContextVar
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.base.secrets import MASK

if TYPE_CHECKING:
    from io import TextIOWrapper

# Which request of which manager a record belongs to; empty outside of requests.
flow_id: Final[ContextVar[str]] = ContextVar("flow_id", default="")
# Who asked: "root", "engine.example.com", a token's name; empty when the agent acts by itself.
caller: Final[ContextVar[str]] = ContextVar("caller", default="")

# Longer records are cut: a log is no place for a dump, and masking must stay cheap.
MAX_RECORD: Final = 32768

_WORDS: Final = r"(?:pass(?:word|wd|phrase)?|secret|ticket|otp|token|private[_-]?key|credential)s?"
# password=x, passwd='x y', "password": "x", ticket: x, <... passwd="x">, and keys that end so (vncPassword, _ticket).
_ASSIGNED: Final = re.compile(
    rf"""(?ix)
    ({_WORDS}["']?\s*[:=]\s*(?:Secret\()?)     # the key's end
    (?: "(?:[^"\\]|\\.)*(?:"|$) | '(?:[^'\\]|\\.)*(?:'|$) | (?:Bearer\s+)?[^\s"',;&<>)}}\]]+ )
    """
)
_BEARER: Final = re.compile(r"(?i)(\bauthorization\b\W{1,4}(?:bearer|basic)\s+|\bbearer\s+)[\w.~+/=-]{6,}")
_ELEMENT: Final = re.compile(r"(?is)(<(password|secret|ticket)>)[^<]*(</\2>)")


def masked(text: str) -> str:
    """Return ``text`` with everything that is shaped like a secret's value replaced by a mask."""
    text = _ELEMENT.sub(rf"\1{MASK}\3", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)


class LineFormatter(logging.Formatter):
    """``time level [flow_id] logger message``: UTC with milliseconds; the message masked, tracebacks indented."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)-5s [%(flow_id)s] %(name)s %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        """Format, mask, and keep the record recognizable as one: further lines are indented."""
        text = super().format(record)
        if len(text) > MAX_RECORD:
            text = f"{text[:MAX_RECORD]}... ({len(text)} characters)"
        return masked(text).replace("\n", "\n    ")


class ContextFilter(logging.Filter):
    """Puts the flow id and the caller of the current context on every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add ``flow_id`` and ``caller``, which formatters may name."""
        record.flow_id = flow_id.get()
        record.caller = caller.get()
        return True


class LogFile(WatchedFileHandler):
    """A log file that is reopened when it was renamed or removed, and is never a symbolic link's target.

    The directory may belong to a user who has less rights than the process that logs.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; a log that cannot be written (a full disk) is nobody's error but its own."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self.baseFilename, flags, 0o640), "a", encoding="utf-8", errors="backslashreplace")


def configure(level: str, file: str | os.PathLike[str] | None = None) -> None:
    """Set up the root logger: to ``file``, or to standard error.

    The file is reopened when it was renamed or removed, so logrotate needs no signal. Python's warnings are logged.
    May be called again; the last call counts.

    Raises:
        OSError: the file cannot be opened.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler()
    else:
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(path, encoding="utf-8")
    handler.setFormatter(LineFormatter())
    # On the handler, not on a logger: filters of a logger do not see the records of its children.
    handler.addFilter(ContextFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library's signature


def set_level(level: str, logger: str = "") -> None:
    """Change the level of one logger by its name (the root's by default): "DEBUG", "INFO", "WARNING", "ERROR"."""
    logging.getLogger(logger or None).setLevel(level)
