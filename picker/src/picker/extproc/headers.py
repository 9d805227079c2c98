"""The headers of the protocol: what is read from a request's, and what is put there."""

from picker.bounded_text import shorten
from picker.extproc.messages import NO_CHANGES, BodyMode, Changes, RequestHeaders
from picker.protocol import DESTINATION, DESTINATION_SERVED, DESTINATION_SUBSET, FAIRNESS_ID, OBJECTIVE, TRACE_METADATA
from picker.requestcontrol.apis import api_of
from picker.requestcontrol.interfaces import Assignment, Wanted
from picker.requestcontrol.multipart_forms import is_form
from picker.requestcontrol.rejection import Rejection
from picker.requestcontrol.request_body import ParsedBody, must_name_model, read_body, read_form_body

CONTROL_HEADERS = (DESTINATION, DESTINATION_SERVED, DESTINATION_SUBSET)
"""The protocol's own headers. What a client sends under these names is dropped: it must not choose its target."""

PREDICT_TTFT = "x-inference-gateway-predict-ttft"
"""Asks, whatever its value, for PREDICTED_TTFT: the predicted milliseconds from the pick to the first token, as if
nothing were cached. No prediction, no header: an endpoint's pace has to be learned first. The setting `predict_ttft`
allows it."""

PREDICTED_TTFT = "x-inference-gateway-predicted-ttft-ms"


def names_model(message: RequestHeaders) -> bool:
    """Whether the body that follows has to be JSON that names a model."""
    headers = message.headers
    return headers.get(":method", "POST") == "POST" and must_name_model(
        headers.get(":path", ""), headers.get("content-type", "")
    )


def read_request(message: RequestHeaders, body: bytes) -> ParsedBody | Rejection:
    """What the body of a request says, by the API of its path."""
    header = message.headers.get
    api = api_of(header(":path", ""))
    content_type = header("content-type", "")
    strict = api.names_model and header(":method", "POST") == "POST"
    if is_form(content_type) and (api.form_tokens or not strict):
        return read_form_body(body, content_type, strict, api)
    media_type = content_type.partition(";")[0].strip().lower()
    return read_body(body, strict, api, says_json=media_type == "application/json")


def opens_tunnel(message: RequestHeaders) -> bool:
    """Whether the body that follows has no end before the answer begins: an upgrade (RFC 9110, 7.8), a CONNECT, also
    the extended one, and a gRPC call, whose messages may go both ways."""
    headers = message.headers
    if "upgrade" in headers and "upgrade" in headers.get("connection", "").lower():
        return True
    if headers.get("content-type", "").startswith("application/grpc"):
        return not names_model(message)
    return headers.get(":method") == "CONNECT"


def wanted(message: RequestHeaders, body: ParsedBody, body_bytes: int, trusted: frozenset[str] = frozenset()) -> Wanted:
    """The request, asking for an endpoint. Of OBJECTIVE and FAIRNESS_ID those in `trusted` are obeyed.

    It is kept, logged and made labels of, so every text is bounded here. The path is without its query, which may hold
    keys of clients."""
    header = message.headers.get
    path = header(":path", "").partition("?")[0]
    return Wanted(
        message.pool, body, message.subset,
        _kept(header(OBJECTIVE)) if OBJECTIVE in trusted else None,
        _kept(header(FAIRNESS_ID)) if FAIRNESS_ID in trusted else None,
        body_bytes, shorten(path), _kept(header("x-request-id")), _kept(header(TRACE_METADATA)),
    )  # fmt: skip


def _kept(value: str | None) -> str | None:
    return shorten(value) if value else None


def to_endpoint(assigned: Assignment, mode: BodyMode, body: bool, renamed_bytes: int | None = None) -> Changes:
    """What becomes of a request's headers with its pick. `body`: whether that has been seen whole; `renamed_bytes`: how
    long it is if its model has another name now."""
    destination = assigned.destination
    # After a buffered body the control headers are gone already, with the answer to the request's headers.
    control_gone = body and mode is BodyMode.BUFFERED
    if control_gone and renamed_bytes is None:
        return Changes(((DESTINATION, destination),), destination=destination)
    set_headers = [(DESTINATION, destination)]
    remove: list[str] = [] if control_gone else [*CONTROL_HEADERS[1:]]
    if renamed_bytes is not None:
        set_headers.append(("content-length", str(renamed_bytes)))
        # A compressed answer could not be searched for the name.
        remove.append("accept-encoding")
    duplex = mode is BodyMode.FULL_DUPLEX_STREAMED
    return Changes(tuple(set_headers), tuple(remove), destination, clear_route_cache=duplex)


def prediction_headers(assigned: Assignment, predicts: bool, remove_headers: tuple[str, ...] = ()) -> Changes:
    """What becomes of an answer's headers. With `predicts` the prediction is one of them."""
    predicted_s = assigned.predicted_ttft_s if predicts else None
    if predicted_s is None:
        return Changes(remove_headers=remove_headers) if remove_headers else NO_CHANGES
    return Changes(((PREDICTED_TTFT, f"{1000 * predicted_s:.0f}"),), remove_headers)
