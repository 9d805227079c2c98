"""Whether a request kept the time to the first token that its client asked for."""

from enum import StrEnum

from picker.requestcontrol.in_flight_request import InFlightRequest


class SloOutcome(StrEnum):
    """How a requested latency ended."""

    KEPT = "kept"
    MISSED = "missed"
    UNKNOWN = "unknown"
    """The first token came between two scrapes, one within the time and one after it. Or the server's counters do not
    show it, or the response is an error."""


def ttft_outcome(request: InFlightRequest, ttft_s: float) -> SloOutcome:
    """The outcome of an ended request that asked for `ttft_s` from the pick to the first token.

    The picker sees no token. Its first token came before the end of the response, and between the two scrapes of the
    server's counters that the in-flight tracker has attributed it to."""
    if request.status is not None and request.status >= 400:
        return SloOutcome.UNKNOWN
    prompt = request.prompt
    duration_s = request.ended_s - request.begun_s if request.ended_s is not None else float("inf")
    if min(duration_s, prompt.first_token_by_s - prompt.sent_s) <= ttft_s:
        return SloOutcome.KEPT
    after_s = max(0.0, prompt.first_token_after_s - prompt.sent_s)
    return SloOutcome.MISSED if after_s > ttft_s else SloOutcome.UNKNOWN
