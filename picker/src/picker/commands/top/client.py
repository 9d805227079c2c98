"""Reads a picker's admin address."""

from collections.abc import Sequence
from http.client import HTTPException
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import msgspec

from picker.cli_error import CliError
from picker.observability.decisions import Decision
from picker.observability.pool_states import PoolState
from picker.printable import printable_all

DEFAULT_URL = "http://127.0.0.1:9090"
"""Where a picker on this machine has its admin address, and where `kubectl port-forward` puts that of one in a
cluster."""

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 32 << 20
"""Four times the largest answer of a picker (`picker.observability.piecewise.MAX_ANSWER_BYTES`)."""

Answer = TypeVar("Answer")


class NoAnswer(CliError):
    """Nothing that is a picker's admin address answers there."""


class PickerClient:
    """Every method raises NoAnswer."""

    def __init__(self, url: str) -> None:
        """`url`: `http://HOST:PORT`, or HOST:PORT."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")

    def pools(self) -> Sequence[PoolState]:
        return self._get("/pools", list[PoolState])

    def decisions(self, *, limit: int, request_id: str | None, pool: str | None) -> Sequence[Decision]:
        """The newest first, of those whose id begins with `request_id`."""
        asked = {"limit": str(limit), "request_id": request_id, "pool": pool}
        given = {name: value for name, value in asked.items() if value is not None}
        return self._get(f"/decisions?{urlencode(given, quote_via=quote)}", list[Decision])

    def _get(self, path: str, kind: type[Answer]) -> Answer:
        if not self.url.startswith(("http://", "https://")):
            raise NoAnswer(f"{self.url}: allowed is http://HOST:PORT")
        try:
            with urlopen(Request(self.url + path), timeout=TIMEOUT_S) as answer:
                page = answer.read(MAX_ANSWER_BYTES + 1)
            if len(page) > MAX_ANSWER_BYTES:
                raise NoAnswer(f"{self.url}{path} answers more than {MAX_ANSWER_BYTES >> 20} MiB")
            # Names come from clients and servers, and go to a terminal.
            return msgspec.convert(printable_all(msgspec.json.decode(page)), kind)
        except HTTPError as error:
            raise NoAnswer(f"{self.url}{path} answers {error.code}: is this a picker's admin address?") from None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise NoAnswer(f"{self.url}{path} is not what a picker of this version answers: {error}") from None
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise NoAnswer(
                f"{self.url} does not answer ({why}). Give the picker's --admin-address; of one in a cluster: "
                "kubectl port-forward deployment/NAME 9090"
            ) from None
