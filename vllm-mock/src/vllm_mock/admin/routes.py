"""The mock's own routes, under /mock: faults that are switched on and off while it runs."""

import os

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vllm_mock.api.api_server import Door, Entry
from vllm_mock.faults.injector import Faults

OURS = "/mock/"
_CRASHED = 1
"""Exit status."""


def admin_routes(door: Door) -> list[Entry]:
    async def faults(request: Request) -> Response:
        return JSONResponse(door.trouble.faults.model_dump())

    async def change(request: Request) -> Response:
        try:
            changed = door.trouble.faults.model_dump() | await request.json()
            door.strike_with(Faults.model_validate(changed))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": _sentences(error)}, 400)
        return JSONResponse(door.trouble.faults.model_dump())

    async def heal(request: Request) -> Response:
        door.strike_with(Faults())
        return JSONResponse(door.trouble.faults.model_dump())

    async def crash(request: Request) -> Response:
        os._exit(_CRASHED)

    return [
        ("GET", f"{OURS}faults", faults),
        ("PATCH", f"{OURS}faults", change),
        ("DELETE", f"{OURS}faults", heal),
        ("POST", f"{OURS}crash", crash),
    ]


def _sentences(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"the body is not a JSON object of faults: {error}"
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
