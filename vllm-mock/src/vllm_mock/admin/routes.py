"""The mock's own routes under /mock: read, set and clear faults, and crash."""

import os

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vllm_mock.api.api_server import ApiServer, Entry
from vllm_mock.faults.injector import Faults

ADMIN_PREFIX = "/mock/"
_CRASHED = 1
"""Exit status."""


def admin_routes(api_server: ApiServer) -> list[Entry]:
    async def faults(request: Request) -> Response:
        return JSONResponse(api_server.injector.faults.model_dump())

    async def change(request: Request) -> Response:
        try:
            changed = api_server.injector.faults.model_dump() | await request.json()
            api_server.inject(Faults.model_validate(changed))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": _error_message(error)}, 400)
        return JSONResponse(api_server.injector.faults.model_dump())

    async def clear(request: Request) -> Response:
        api_server.inject(Faults())
        return JSONResponse(api_server.injector.faults.model_dump())

    async def crash(request: Request) -> Response:
        os._exit(_CRASHED)

    return [
        ("GET", f"{ADMIN_PREFIX}faults", faults),
        ("PATCH", f"{ADMIN_PREFIX}faults", change),
        ("DELETE", f"{ADMIN_PREFIX}faults", clear),
        ("POST", f"{ADMIN_PREFIX}crash", crash),
    ]


def _error_message(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"the body is not a JSON object of faults: {error}"
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
