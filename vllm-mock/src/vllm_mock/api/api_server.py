"""What the routes of one server share: the replica, its faults, and the completions that are being answered."""

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.responses import EventStream, while_connected
from vllm_mock.faults.injector import Faults, Trouble
from vllm_mock.generation.errors import Refused
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.replica import Asked, Replica
from vllm_mock.generation.request_body import Body
from vllm_mock.generation.validation import read_body

Kind = TypeVar("Kind")
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Entry: TypeAlias = tuple[str, str, Endpoint]
"""Method, path, endpoint."""


async def read(request: Request, kind: type[Kind]) -> Kind:
    """The body. Raises Refused."""
    return read_body(kind, request.headers.get("content-type", ""), await request.body())


class Door:
    """One server's."""

    def __init__(self, replica: Replica, faults: Faults) -> None:
        self.replica = replica
        self.trouble = Trouble(faults, replica.options.seed)
        self.healthy = True
        self._open: set[Generation] = set()
        self._step_time = replica.engine.engine.step_time
        self.strike_with(faults)

    @property
    def busy(self) -> bool:
        """Whether anything is being answered."""
        return bool(self._open)

    def engine_failed(self, error: BaseException) -> None:
        """A defect of the mock: like a vLLM whose engine core died, it answers 500, and /health 503."""
        traceback.print_exception(error)
        self.healthy = False
        self.replica.draining = True
        self.abort_all()

    def abort_all(self) -> None:
        """The engine goes: everybody who waits is told so."""
        for generation in list(self._open):
            generation.fail(Refused.engine_dead())

    def strike_with(self, faults: Faults) -> None:
        """From now on these faults and no others."""
        self.trouble.faults = faults
        engine = self.replica.engine
        engine.engine.step_time = self._step_time.scaled(faults.slow_factor)
        if faults.stalled:
            engine.stall()
        else:
            engine.resume()

    def abort_in_engine(self) -> None:
        """End everything with finish_reason `abort`."""
        for generation in list(self._open):
            generation.abort_in_engine()

    async def begin(self, asked: Asked, body: Body) -> Generation:
        """Hand the request to the engine. Raises Refused where a fault says so."""
        self._strike()
        generation = Generation(self.replica, asked, body)
        self._open.add(generation)
        if self.replica.options.server_load_tracking:
            self.replica.load += 1
        await generation.start()
        return generation

    async def finish(self, request: Request, generation: Generation) -> None:
        """Until all of it is there, or the client has gone. Raises Refused."""

        def over() -> None:
            self._over(generation)

        await while_connected(request.receive, generation.finished(), over)

    def stream(self, generation: Generation, events: AsyncIterator[bytes]) -> Response:
        """The events as they come."""
        faults = self.trouble.faults
        cut_after = faults.cut_stream_after_events if self.trouble.strikes(faults.cut_stream_rate) else None
        return EventStream(events, lambda: self._over(generation), cut_after)

    def _strike(self) -> None:
        trouble = self.trouble
        if trouble.strikes(trouble.faults.error_500_rate):
            raise Refused.engine_dead()
        if trouble.strikes(trouble.faults.error_503_rate):
            raise Refused.busy()

    def _over(self, generation: Generation) -> None:
        generation.close()
        if generation in self._open:
            self._open.remove(generation)
            if self.replica.options.server_load_tracking:
                self.replica.load -= 1
