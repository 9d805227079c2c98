"""Health, version, load, metrics and API description."""

import asyncio

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vllm_mock.api.api_server import ApiServer, Entry
from vllm_mock.api.responses import json_response
from vllm_mock.api.schemas import OpenApi, ServerLoad, Version

_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_POSTED_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DOCS = """<!DOCTYPE html>
<html><head><title>vLLM mock</title></head><body><h1>vLLM mock</h1>
<p>The paths are listed in <a href="/openapi.json">/openapi.json</a>.</p></body></html>
"""


def status_routes(api_server: ApiServer, described: list[Entry]) -> list[Entry]:
    """The status routes. `described` are the routes that /openapi.json lists."""
    replica, injector = api_server.replica, api_server.injector

    async def health(request: Request) -> Response:
        return Response(status_code=200 if api_server.healthy else 503)

    async def version(request: Request) -> Response:
        return json_response(Version(replica.options.version))

    async def load(request: Request) -> Response:
        return json_response(ServerLoad(replica.load))

    async def metrics(request: Request) -> Response:
        return Response(await _page(api_server), headers={"content-type": _METRICS_TYPE})

    async def posted_metrics(request: Request) -> Response:
        response = Response(await _page(api_server), headers={"content-type": _POSTED_METRICS_TYPE})
        del response.headers["content-length"]
        return response

    async def openapi(request: Request) -> Response:
        paths: dict[str, dict[str, dict[str, str]]] = {}
        for method, path, endpoint in described:
            paths.setdefault(path, {})[method.lower()] = {"operationId": endpoint.__name__}
        return json_response(OpenApi("3.1.0", {"title": "vLLM mock", "version": replica.options.version}, paths))

    async def docs(request: Request) -> Response:
        return HTMLResponse(_DOCS)

    async def _page(api_server: ApiServer) -> bytes:
        faults = injector.faults
        if faults.metrics_hang:
            await asyncio.Event().wait()
        if faults.metrics_delay_s:
            await asyncio.sleep(faults.metrics_delay_s)
        page = replica.engine.engine.metrics.render()
        if not faults.metrics_stale:
            injector.stale_page = None
            return page
        injector.stale_page = injector.stale_page or page
        return injector.stale_page

    return [
        ("GET", "/health", health),
        ("GET", "/ping", health),
        ("POST", "/ping", health),
        ("GET", "/version", version),
        ("GET", "/load", load),
        ("GET", "/metrics", metrics),
        ("POST", "/metrics", posted_metrics),
        ("GET", "/openapi.json", openapi),
        ("GET", "/docs", docs),
    ]
