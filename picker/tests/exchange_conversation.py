"""Support for tests of exchanges: a director that records its calls, and the messages of a proxy."""

import json
from random import Random
from typing import Any

from fleet import endpoint, request
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.load.prefill_tracker import Prompt
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.messages import Body, BodyMode, Modes, Phase, RequestHeaders, ResponseHeaders
from picker.rejection import Rejection
from picker.requestcontrol.director import Director
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import Bounds, OnAdmitted, QueuedRequest
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.scheduling.request import Ranking

ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"


class FakeDirector(Director):
    """Assigns ENDPOINTS to every request and records the calls. With `fails`, `assign` returns or raises it."""

    def __init__(
        self,
        fails: Rejection | Exception | None = None,
        *,
        served_model: str | None = None,
        predicted_ttft_s: float | None = None,
        samples: bool = False,
    ) -> None:
        super().__init__(InFlightTracker(), lambda: 0.0, Random(1), unknown_models=True)
        self.fails = fails
        self.served_model = served_model
        self.predicted_ttft_s = predicted_ttft_s
        self.samples = samples
        """The result of `wants_response_headers`."""
        self.requests: list[PickRequest] = []
        self.rejections: list[Rejection] = []
        """The rejections that the exchange reported."""
        self.responses: list[tuple[str | None, int | None]] = []
        """For each response: the endpoint that answered, and the status."""
        self.ends: list[bool] = []
        """For each request that ended: `not_sampled`."""

    def wants_response_headers(self, pool: str | None) -> bool:
        return self.samples

    def assign(self, request: PickRequest) -> InFlightRequest | Rejection:
        self.requests.append(request)
        if isinstance(self.fails, Exception):
            raise self.fails
        return self.fails or assigned(self.served_model, self.predicted_ttft_s)

    def report_rejected(self, request: PickRequest, rejection: Rejection) -> None:
        self.rejections.append(rejection)

    def response_started(self, request: InFlightRequest, served_by: str | None, status: int | None) -> None:
        self.responses.append((served_by, status))

    def ended(self, request: InFlightRequest, *, not_sampled: bool = False) -> None:
        self.ends.append(not_sampled)


class FakeQueue(FlowControl):
    """Queues every request until `admit` is called. With `rejection`, rejects every request."""

    def __init__(self, rejection: Rejection | None = None) -> None:
        self.now_s = 0.0
        super().__init__(FakeDirector(), lambda: self.now_s, lambda _: None, Bounds(1, 1), time_limit_s=60.0)
        self.rejection = rejection
        self.left = 0
        """Calls of `leave`."""
        self._on_admitted: OnAdmitted | None = None

    def join(self, request: PickRequest, on_admitted: OnAdmitted) -> QueuedRequest | Rejection | None:
        self._on_admitted = on_admitted
        return self.rejection or QueuedRequest("pool", 0, "", 1, 1, None, 60.0, 60.0, on_admitted)

    def leave(self, queued: QueuedRequest) -> None:
        self.left += 1

    def admit(self, rejection: Rejection | None = None) -> None:
        assert self._on_admitted is not None
        self._on_admitted(rejection)


def assigned(served_model: str | None = None, predicted_ttft_s: float | None = None) -> InFlightRequest:
    """Returns a request that ENDPOINTS are assigned to."""
    endpoints = endpoint(1), endpoint(2)
    return InFlightRequest(
        endpoints[0],
        Prompt(1000, 0.0, 0.0),
        100,
        None,
        request=request(),
        ranking=Ranking(endpoints),
        prefixes=None,
        sent=None,
        predicted_ttft_s=predicted_ttft_s,
        served_model=served_model,
    )


def new_exchange(director: FakeDirector, **limits: Any) -> Exchange:
    return Exchange(director, Limits(**limits))


def headers(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    *,
    mode: BodyMode | None = BodyMode.BUFFERED,
    response_mode: BodyMode = BodyMode.NONE,
    end: bool = False,
    subset: frozenset[str] | None = None,
    pool: str | None = None,
    **more: str,
) -> RequestHeaders:
    named = {key.replace("_", "-"): value for key, value in more.items()}
    modes = Modes(mode, response_mode) if mode is not None else None
    return RequestHeaders({":method": method, ":path": path, **named}, end, subset, modes, pool)


def body(data: bytes | None = None, *, end: bool = True, model: str = "m") -> Body:
    return Body(Phase.REQUEST, json.dumps({"model": model, "prompt": "hi"}).encode() if data is None else data, end)


def response(
    content_type: str = "application/json", *, end: bool = False, served: str | None = None
) -> ResponseHeaders:
    return ResponseHeaders({":status": "200", "content-type": content_type}, end, served)


def response_body(data: bytes, *, end: bool = False) -> Body:
    return Body(Phase.RESPONSE, data, end)
