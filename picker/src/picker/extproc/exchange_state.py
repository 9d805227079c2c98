"""How far an exchange has come."""

from enum import Enum


class Stage(Enum):
    """By what is expected next."""

    START = "the request's headers"
    BODY = "the request's body"
    HELD = "an endpoint with room"
    PICKED = "the response"
    ANSWERING = "the response's body"
    ANSWERED = "the end"
    REFUSED = "nothing"


AFTER_PICK = (Stage.PICKED, Stage.ANSWERING, Stage.ANSWERED)
BEFORE_ANSWER = (Stage.BODY, Stage.HELD, Stage.PICKED)
