"""The ASGI application of one server: its routes and middleware."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vllm_mock.admin.dev_routes import dev_routes
from vllm_mock.admin.routes import ADMIN_PREFIX, admin_routes
from vllm_mock.api.api_server import ApiServer, Endpoint, Entry
from vllm_mock.api.completion_routes import completion_routes
from vllm_mock.api.embeddings import embeddings_routes
from vllm_mock.api.http_metrics import HANDLER, HttpMetrics
from vllm_mock.api.middleware import ApiKeys, RequestIds
from vllm_mock.api.model_routes import model_routes
from vllm_mock.api.responses import error_response, json_response
from vllm_mock.api.responses_routes import responses_routes
from vllm_mock.api.schemas import Detail
from vllm_mock.api.status_routes import status_routes
from vllm_mock.api.token_routes import token_routes
from vllm_mock.generation.errors import ApiError


def build_app(api_server: ApiServer) -> ASGIApp:
    entries = [
        *completion_routes(api_server),
        *responses_routes(api_server),
        *embeddings_routes(api_server),
        *model_routes(api_server),
    ]
    entries += token_routes(api_server)
    entries += [*status_routes(api_server, entries), *dev_routes(api_server), *admin_routes(api_server)]
    starlette = Starlette(
        routes=_routes(entries),
        exception_handlers={HTTPException: _no_such_route, ApiError: _api_error},  # pyright: ignore[reportArgumentType]
    )
    options = api_server.replica.options
    # vLLM's default allows any origin.
    shared = CORSMiddleware(starlette, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app: ASGIApp = HttpMetrics(shared, api_server.replica.engine.engine.metrics.registry, ADMIN_PREFIX)
    if options.api_keys:
        app = ApiKeys(app, options.api_keys)
    return RequestIds(app) if options.request_id_headers else app


def _routes(entries: list[Entry]) -> list[Route]:
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in entries:
        by_path.setdefault(path, {})[method] = endpoint
    return [_route(path, endpoints) for path, endpoints in by_path.items()]


def _route(path: str, endpoints: dict[str, Endpoint]) -> Route:
    async def take(request: Request) -> Response:
        request.scope[HANDLER] = path
        return await endpoints[request.method](request)

    route = Route(path, take, methods=list(endpoints))
    # Starlette adds HEAD to every GET route. FastAPI, and so vLLM, does not.
    route.methods = set(endpoints)
    return route


async def _no_such_route(request: Request, error: HTTPException) -> Response:
    return json_response(Detail(error.detail), error.status_code, error.headers)


async def _api_error(request: Request, error: ApiError) -> Response:
    return error_response(error)
