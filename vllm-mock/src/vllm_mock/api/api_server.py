"""State that the routes of one server share: the replica, its faults, and the completions in progress."""

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.responses import EventStream, while_connected
from vllm_mock.faults.injector import FaultInjector, Faults
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.replica import PreparedRequest, Replica
from vllm_mock.generation.request_body import Body
from vllm_mock.generation.validation import read_body

Kind = TypeVar("Kind")
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Entry: TypeAlias = tuple[str, str, Endpoint]
"""Method, path, endpoint."""


async def read(request: Request, kind: type[Kind]) -> Kind:
    """Parses the request's body as `kind`. Raises ApiError."""
    return read_body(kind, request.headers.get("content-type", ""), await request.body())


class ApiServer:
    """Starts, counts and ends the completions of one server."""

    def __init__(self, replica: Replica, faults: Faults) -> None:
        self.replica = replica
        self.injector = FaultInjector(faults, replica.options.seed)
        self.healthy = True
        self._open: set[Generation] = set()
        self._step_time = replica.engine.engine.step_time
        self.inject(faults)

    @property
    def busy(self) -> bool:
        """Whether a completion is in progress."""
        return bool(self._open)

    def engine_failed(self, error: BaseException) -> None:
        """Reports a defect of the mock as vLLM reports a dead engine core: completions get 500 and /health 503."""
        traceback.print_exception(error)
        self.healthy = False
        self.replica.draining = True
        self.abort_all()

    def abort_all(self) -> None:
        """Fails all completions in progress with vLLM's engine error."""
        for generation in list(self._open):
            generation.fail(ApiError.engine_dead())

    def inject(self, faults: Faults) -> None:
        """Replaces the active faults with `faults`."""
        self.injector.faults = faults
        engine = self.replica.engine
        engine.engine.step_time = self._step_time.scaled(faults.slow_factor)
        if faults.stalled:
            engine.stall()
        else:
            engine.resume()

    def abort_in_engine(self) -> None:
        """Ends all completions in progress with finish_reason `abort`."""
        for generation in list(self._open):
            generation.abort_in_engine()

    async def begin(self, prepared: PreparedRequest, body: Body) -> Generation:
        """Submits the request to the engine. Raises ApiError if a fault is injected."""
        self._raise_injected_error()
        generation = Generation(self.replica, prepared, body)
        self._open.add(generation)
        if self.replica.options.server_load_tracking:
            self.replica.load += 1
        await generation.start()
        return generation

    async def finish(self, request: Request, generation: Generation) -> None:
        """Waits until all choices have finished or the client has disconnected. Raises ApiError."""

        def over() -> None:
            self._over(generation)

        await while_connected(request.receive, generation.finished(), over)

    def stream(self, generation: Generation, events: AsyncIterator[bytes]) -> Response:
        """A response of server-sent events, which closes `generation` at its end."""
        faults = self.injector.faults
        cut_after = faults.cut_stream_after_events if self.injector.draw(faults.cut_stream_rate) else None
        return EventStream(events, lambda: self._over(generation), cut_after)

    def _raise_injected_error(self) -> None:
        injector = self.injector
        if injector.draw(injector.faults.error_500_rate):
            raise ApiError.engine_dead()
        if injector.draw(injector.faults.error_503_rate):
            raise ApiError.busy()

    def _over(self, generation: Generation) -> None:
        generation.close()
        if generation in self._open:
            self._open.remove(generation)
            if self.replica.options.server_load_tracking:
                self.replica.load -= 1
