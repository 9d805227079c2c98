"""How far an exchange has come."""

from enum import Enum


class ExchangeState(Enum):
    """By what is expected next."""

    START = "the request's headers"
    BODY = "the request's body"
    HELD = "an endpoint with room"
    PICKED = "the response"
    ANSWERING = "the response's body"
    ANSWERED = "the end"
    REFUSED = "nothing"


AFTER_PICK = (ExchangeState.PICKED, ExchangeState.ANSWERING, ExchangeState.ANSWERED)
BEFORE_ANSWER = (ExchangeState.BODY, ExchangeState.HELD, ExchangeState.PICKED)
