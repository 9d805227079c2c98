"""Error responses with vLLM's texts and format."""

import msgspec

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class ErrorInfo(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorInfo


class ApiError(Exception):
    """An error response: vLLM rejects a request or cannot finish it."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind

    @classmethod
    def value(cls, message: str, param: str, value: object = None) -> "ApiError":
        """A rejected parameter value. vLLM adds the parameter in brackets."""
        shown = f"(parameter={param}" + (f", value={value})" if value is not None else ")")
        return cls(400, f"{message} {shown}", param)

    @classmethod
    def unknown_model(cls, model: str, served: str) -> "ApiError":
        message = f"The model `{model}` does not exist. Valid aliases: {served}."
        return cls(404, message, "model", "NotFoundError")

    @classmethod
    def busy(cls) -> "ApiError":
        """There are more requests than --max-num-queued-reqs."""
        message = (
            "The engine is currently busy and cannot accept new requests. "
            "Please try again later or on a different instance."
        )
        return cls(503, message, None, "Service Unavailable")

    @classmethod
    def engine_dead(cls) -> "ApiError":
        """The engine failed while the request ran, or the server is shutting down."""
        return cls(500, ENGINE_DEAD, None, "InternalServerError")

    @property
    def body(self) -> ErrorBody:
        return ErrorBody(ErrorInfo(self.message, self.kind, self.param, self.status))
