"""Validation of sampling parameters, in vLLM's order."""

from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.request_body import Body

MAX_LOGPROBS = 20
"""Default of vLLM's --max-logprobs."""


def check_sampling(body: Body, max_tokens: int) -> None:
    """Raises ApiError for invalid parameters. `max_tokens` is the effective limit on generated tokens."""
    _check_numbers(body)
    if max_tokens < 1:
        raise ApiError.value(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if body.min_tokens < 0:
        raise ApiError(400, f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.")
    if body.min_tokens > max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {body.min_tokens}."
        raise ApiError(400, message)
    if any(not stop for stop in body.stops):
        raise ApiError(400, "stop cannot contain an empty string.")
    if body.greedy and body.samples > 1:
        raise ApiError(400, f"n must be 1 when using greedy sampling, got {body.samples}.")
    _check_logprobs(body)


def _check_numbers(body: Body) -> None:
    if body.samples < 1:
        raise ApiError(400, f"n must be at least 1, got {body.samples}.")
    for name, penalty in (
        ("presence_penalty", body.presence_penalty),
        ("frequency_penalty", body.frequency_penalty),
    ):
        if penalty is not None and not -2.0 <= penalty <= 2.0:
            raise ApiError(400, f"{name} must be in [-2, 2], got {penalty}.")
    if body.repetition_penalty is not None and body.repetition_penalty <= 0:
        raise ApiError(400, f"repetition_penalty must be greater than zero, got {body.repetition_penalty}.")
    temperature = body.temperature
    if temperature is not None and temperature < 0:
        raise ApiError.value(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if temperature is not None and temperature > 2:
        raise ApiError.value(f"temperature must be in [0, 2], got {temperature}.", "temperature", temperature)
    if body.top_p is not None and not 0.0 < body.top_p <= 1.0:
        raise ApiError.value(f"top_p must be in (0, 1], got {body.top_p}.", "top_p", body.top_p)
    if body.top_k is not None and body.top_k < -1:
        raise ApiError(400, f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise ApiError(400, f"min_p must be in [0, 1], got {body.min_p}.")


def _check_logprobs(body: Body) -> None:
    for kind, name, count in (
        ("sample", "logprobs", body.logprob_count),
        ("prompt", "prompt_logprobs", body.prompt_logprob_count),
    ):
        if count is not None and count > MAX_LOGPROBS:
            message = f"Requested {kind} logprobs of {count}, which is greater than max allowed: {MAX_LOGPROBS}"
            raise ApiError.value(message, name, count)
