"""Reads manifest files up to a size limit."""

import errno
from pathlib import Path

MAX_FILE_BYTES = 16 << 20
"""Limit on one file. Judgement: five times the largest manifest of Envoy Gateway's releases."""


def read_bounded(file: Path) -> str:
    """The text of `file`. Raises OSError, also for more than `MAX_FILE_BYTES`, and UnicodeDecodeError."""
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_FILE_BYTES} bytes")
    return content.decode()
