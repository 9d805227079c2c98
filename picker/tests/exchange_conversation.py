"""A desk that always has an endpoint, and messages to talk to an exchange with."""

import json
from dataclasses import dataclass, field
from typing import Any

from picker.extproc.exchange import Exchange, Limits
from picker.extproc.messages import Body, BodyMode, Modes, Phase, RequestHeaders, ResponseHeaders
from picker.requestcontrol.interfaces import Wanted
from picker.requestcontrol.rejection import Rejection

ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"


@dataclass
class Seat:
    """An assignment that remembers what happened to it."""

    destination: str = ENDPOINTS
    served_model: str | None = None
    predicted_ttft_s: float | None = None
    served: str | None = None
    status: int | None = None
    began: bool = False
    ended: int = 0
    not_sampled: bool = False

    def served_by(self, address: str) -> None:
        self.served = address

    def first_byte(self, status: int | None) -> None:
        self.began, self.status = True, status

    def end(self, *, not_sampled: bool = False) -> None:
        self.ended += 1
        self.not_sampled = not_sampled


@dataclass
class FakeDesk:
    """Answers what it is told to, and remembers what it was asked."""

    answer: Seat | Rejection | Exception = field(default_factory=Seat)
    asked: list[Wanted] = field(default_factory=list)
    turned: list[Rejection] = field(default_factory=list)
    sees: bool = False

    def wants_response_headers(self, pool: str | None) -> bool:
        return self.sees

    def assign(self, wanted: Wanted) -> Seat | Rejection:
        self.asked.append(wanted)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def turned_away(self, wanted: Wanted, rejection: Rejection) -> None:
        self.turned.append(rejection)


def exchange(desk: FakeDesk, **limits: Any) -> Exchange:
    return Exchange(desk, Limits(**limits))


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


def answer(data: bytes, *, end: bool = False) -> Body:
    return Body(Phase.RESPONSE, data, end)
