"""vLLM's development routes that affect requests: /pause and /resume."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vllm_mock.api.api_server import ApiServer, Entry


def dev_routes(api_server: ApiServer) -> list[Entry]:
    """The routes; empty unless the server is in dev mode."""

    async def pause(request: Request) -> Response:
        if request.query_params.get("mode") == "abort":
            api_server.abort_in_engine()
        api_server.replica.engine.stall()
        return JSONResponse({"status": "paused"})

    async def resume(request: Request) -> Response:
        api_server.replica.engine.resume()
        return JSONResponse({"status": "resumed"})

    if not api_server.replica.options.dev_mode:
        return []
    return [("POST", "/pause", pause), ("POST", "/resume", resume)]
