"""The routes of one server, and what happens around them."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vllm_mock.admin.dev_routes import dev_routes
from vllm_mock.admin.routes import OURS, admin_routes
from vllm_mock.api.api_server import Door, Endpoint, Entry
from vllm_mock.api.completion_routes import completion_routes
from vllm_mock.api.embeddings import embeddings_routes
from vllm_mock.api.http_metrics import HANDLER, HttpMetrics
from vllm_mock.api.middleware import ApiKeys, RequestIds
from vllm_mock.api.model_routes import model_routes
from vllm_mock.api.responses import json_response, refusal
from vllm_mock.api.responses_routes import responses_routes
from vllm_mock.api.schemas import Detail
from vllm_mock.api.status_routes import status_routes
from vllm_mock.api.token_routes import token_routes
from vllm_mock.generation.errors import Refused


def build_app(door: Door) -> ASGIApp:
    entries = [*completion_routes(door), *responses_routes(door), *embeddings_routes(door), *model_routes(door)]
    entries += token_routes(door)
    entries += [*status_routes(door, entries), *dev_routes(door), *admin_routes(door)]
    starlette = Starlette(
        routes=_routes(entries),
        exception_handlers={HTTPException: _no_such_route, Refused: _refused},  # pyright: ignore[reportArgumentType]
    )
    options = door.replica.options
    # Pages of any origin may ask, as vLLM lets them unless told otherwise.
    shared = CORSMiddleware(starlette, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app: ASGIApp = HttpMetrics(shared, door.replica.engine.engine.metrics.registry, OURS)
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
    # Starlette lets HEAD in wherever GET is; FastAPI, and so vLLM, does not.
    route.methods = set(endpoints)
    return route


async def _no_such_route(request: Request, error: HTTPException) -> Response:
    return json_response(Detail(error.detail), error.status_code, error.headers)


async def _refused(request: Request, error: Refused) -> Response:
    return refusal(error)
