"""A client of a picker's admin address."""

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
"""The default admin address of a picker on this machine, and of `kubectl port-forward` to one in a cluster."""

TIMEOUT_S = 5.0
MAX_RESPONSE_BYTES = 32 << 20
"""Four times the largest response of a picker (`picker.observability.piecewise.MAX_ANSWER_BYTES`)."""

Response = TypeVar("Response")


class NoAnswer(CliError):
    """No admin address of a picker answers at the URL."""


class PickerClient:
    """Every method raises NoAnswer."""

    def __init__(self, url: str) -> None:
        """`url`: `http://HOST:PORT`, or HOST:PORT."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")

    def pools(self) -> Sequence[PoolState]:
        return self._get("/pools", list[PoolState])

    def decisions(self, *, limit: int, request_id: str | None, pool: str | None) -> Sequence[Decision]:
        """Returns decisions, the newest first, whose request id begins with `request_id`."""
        query = {"limit": str(limit), "request_id": request_id, "pool": pool}
        parameters = {name: value for name, value in query.items() if value is not None}
        return self._get(f"/decisions?{urlencode(parameters, quote_via=quote)}", list[Decision])

    def _get(self, path: str, kind: type[Response]) -> Response:
        if not self.url.startswith(("http://", "https://")):
            raise NoAnswer(f"{self.url}: allowed is http://HOST:PORT")
        try:
            with urlopen(Request(self.url + path), timeout=TIMEOUT_S) as response:
                page = response.read(MAX_RESPONSE_BYTES + 1)
            if len(page) > MAX_RESPONSE_BYTES:
                raise NoAnswer(f"{self.url}{path} responds with more than {MAX_RESPONSE_BYTES >> 20} MiB")
            # Names come from clients and servers, and are written to a terminal.
            return msgspec.convert(printable_all(msgspec.json.decode(page)), kind)
        except HTTPError as error:
            raise NoAnswer(f"{self.url}{path} responds with {error.code}: is this a picker's admin address?") from None
        except (msgspec.MsgspecError, RecursionError) as error:
            raise NoAnswer(f"{self.url}{path} is not a response of a picker of this version: {error}") from None
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            raise NoAnswer(
                f"{self.url} does not answer ({why}). Pass the picker's --admin-address. "
                "For a picker in a cluster run: kubectl port-forward deployment/NAME 9090"
            ) from None
