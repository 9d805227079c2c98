"""Logging of the picker: one event per line with its fields, as text or as JSON."""

import logging
import sys
from typing import Literal

import structlog

from picker.printable import printable

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

_QUIET = ("httpcore", "httpcore2", "httpx", "httpx2", "watchfiles")
"""Loggers of libraries that log each request or each check of a file, at info or debug. Only their warnings are logged,
at every level."""


def configure_logging(level: Level, output: Literal["json", "text"]) -> None:
    """Configures structlog and the standard library's logging. Lines are written to standard error."""
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if output == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([] if output == "json" else [_escape]),
            render,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    set_level(level)


def _escape(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escapes control characters: fields may hold foreign names, and text is written to terminals."""
    return {key: printable(value, keep="\n") if isinstance(value, str) else value for key, value in event.items()}


def set_level(level: Level) -> None:
    """Sets the least severe level that is logged, in every module."""
    logging.getLogger().setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
