"""vLLM's routes for developers, as far as they concern requests: /pause and /resume."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vllm_mock.api.api_server import Door, Entry


def dev_routes(door: Door) -> list[Entry]:
    """None, unless the server is in dev mode."""

    async def pause(request: Request) -> Response:
        if request.query_params.get("mode") == "abort":
            door.abort_in_engine()
        door.replica.engine.stall()
        return JSONResponse({"status": "paused"})

    async def resume(request: Request) -> Response:
        door.replica.engine.resume()
        return JSONResponse({"status": "resumed"})

    if not door.replica.options.dev_mode:
        return []
    return [("POST", "/pause", pause), ("POST", "/resume", resume)]
