"""Headers of requests and responses: what the picker reads, sets and removes."""

from picker.bounded_text import shorten
from picker.extproc.messages import NO_CHANGES, BodyMode, Changes, RequestHeaders
from picker.extproc.read_headers import DEFAULT_HEADERS, ReadHeaders
from picker.protocol import DESTINATION, DESTINATION_SERVED, DESTINATION_SUBSET, TRACE_METADATA
from picker.rejection import Rejection
from picker.requestcontrol.apis import api_of
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.multipart_forms import is_form
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import ParsedBody, must_name_model, read_body, read_form_body

CONTROL_HEADERS = (DESTINATION, DESTINATION_SERVED, DESTINATION_SUBSET)
"""The protocol's own headers. They are removed from a client's request: a client must not choose its endpoint."""

PREDICT_TTFT = "x-inference-gateway-predict-ttft"
"""Requests PREDICTED_TTFT, with any value: the predicted milliseconds from the pick to the first token, as if nothing
were cached. The response has no such header while the endpoint's speed is unknown. The setting `predict_ttft` enables
it."""

PREDICTED_TTFT = "x-inference-gateway-predicted-ttft-ms"


def names_model(message: RequestHeaders) -> bool:
    """Whether the request's body must be JSON or a form that names a model."""
    headers = message.headers
    return headers.get(":method", "POST") == "POST" and must_name_model(
        headers.get(":path", ""), headers.get("content-type", "")
    )


def read_request(message: RequestHeaders, body: bytes) -> ParsedBody | Rejection:
    """Parses the body of a request as the API of its path defines it."""
    header = message.headers.get
    api = api_of(header(":path", ""))
    content_type = header("content-type", "")
    strict = api.names_model and header(":method", "POST") == "POST"
    if is_form(content_type) and (api.form_tokens or not strict):
        return read_form_body(body, content_type, strict, api)
    media_type = content_type.partition(";")[0].strip().lower()
    return read_body(body, strict, api, says_json=media_type == "application/json")


def opens_tunnel(message: RequestHeaders) -> bool:
    """Whether the body may end only after the response begins: an upgrade (RFC 9110, 7.8), CONNECT, extended CONNECT,
    or a gRPC call, which may be bidirectional."""
    headers = message.headers
    if "upgrade" in headers and "upgrade" in headers.get("connection", "").lower():
        return True
    if headers.get("content-type", "").startswith("application/grpc"):
        return not names_model(message)
    return headers.get(":method") == "CONNECT"


def pick_request(
    message: RequestHeaders, body: ParsedBody, body_bytes: int, read: ReadHeaders = DEFAULT_HEADERS
) -> PickRequest:
    """Returns the request as the director reads it. `read`: the headers that have an effect.

    Texts are kept, logged and used as labels, so the length of each is limited here. The query of the path is removed,
    because it may contain keys of clients."""
    headers = message.headers
    header = headers.get
    path = header(":path", "").partition("?")[0]
    info = RequestInfo(shorten(path), _bounded(header("x-request-id")), _bounded(header(TRACE_METADATA)), body_bytes)
    objective = flow = rewrite = None
    if not read.only_slo:
        objective, flow, rewrite = read.objective_of(headers), read.flow_of(headers), read.model_rewrite_of(headers)
    return PickRequest(message.pool, body, message.subset, objective, flow, info, rewrite, read.slo_of(headers))


def _bounded(value: str | None) -> str | None:
    return shorten(value) if value else None


def to_endpoint(
    request: InFlightRequest, mode: BodyMode, body: bool, renamed_bytes: int | None = None, *, only_best: bool = False
) -> Changes:
    """Returns the changes to a request's headers that carry its pick. `body`: whether the whole body was received.
    `renamed_bytes`: the length of the body if its model was renamed, else None. `only_best`: without the next ones."""
    destination = request.endpoint.address if only_best else request.destination
    # Before a buffered body, the reply to the request's headers has removed the control headers.
    control_gone = body and mode is BodyMode.BUFFERED
    if control_gone and renamed_bytes is None:
        return Changes(((DESTINATION, destination),), destination=destination)
    set_headers = [(DESTINATION, destination)]
    remove: list[str] = [] if control_gone else [*CONTROL_HEADERS[1:]]
    if renamed_bytes is not None:
        set_headers.append(("content-length", str(renamed_bytes)))
        # The picker could not replace the model's name in a compressed response.
        remove.append("accept-encoding")
    duplex = mode is BodyMode.FULL_DUPLEX_STREAMED
    return Changes(tuple(set_headers), tuple(remove), destination, clear_route_cache=duplex)


def prediction_headers(request: InFlightRequest, predicts: bool, remove_headers: tuple[str, ...] = ()) -> Changes:
    """Returns the changes to the response headers. With `predicts` they add the prediction."""
    predicted_s = request.predicted_ttft_s if predicts else None
    if predicted_s is None:
        return Changes(remove_headers=remove_headers) if remove_headers else NO_CHANGES
    return Changes(((PREDICTED_TTFT, f"{1000 * predicted_s:.0f}"),), remove_headers)
