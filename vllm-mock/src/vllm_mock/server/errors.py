"""Refusals in vLLM's words and shape."""

from starlette.responses import JSONResponse


class Refused(Exception):
    """A request that vLLM would not take."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind

    @classmethod
    def value(cls, message: str, param: str, value: object = None) -> "Refused":
        """A parameter whose value is refused; vLLM adds which one in brackets."""
        shown = f"(parameter={param}" + (f", value={value})" if value is not None else ")")
        return cls(400, f"{message} {shown}", param)

    def response(self) -> JSONResponse:
        return JSONResponse(
            {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}},
            self.status,
        )
