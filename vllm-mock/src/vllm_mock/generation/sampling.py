"""Which sampling parameters vLLM refuses, in the order in which it looks at them."""

from vllm_mock.generation.errors import Refused
from vllm_mock.generation.request_body import Body

MOST_LOGPROBS = 20
"""vLLM's --max-logprobs."""


def check_sampling(body: Body, max_tokens: int) -> None:
    """Raises Refused. `max_tokens` is what will be generated at most."""
    _check_numbers(body)
    if max_tokens < 1:
        raise Refused.value(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if body.min_tokens < 0:
        raise Refused(400, f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.")
    if body.min_tokens > max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {body.min_tokens}."
        raise Refused(400, message)
    if any(not stop for stop in body.stops):
        raise Refused(400, "stop cannot contain an empty string.")
    if body.greedy and body.samples > 1:
        raise Refused(400, f"n must be 1 when using greedy sampling, got {body.samples}.")
    _check_logprobs(body)


def _check_numbers(body: Body) -> None:
    if body.samples < 1:
        raise Refused(400, f"n must be at least 1, got {body.samples}.")
    for name, penalty in (
        ("presence_penalty", body.presence_penalty),
        ("frequency_penalty", body.frequency_penalty),
    ):
        if penalty is not None and not -2.0 <= penalty <= 2.0:
            raise Refused(400, f"{name} must be in [-2, 2], got {penalty}.")
    if body.repetition_penalty is not None and body.repetition_penalty <= 0:
        raise Refused(400, f"repetition_penalty must be greater than zero, got {body.repetition_penalty}.")
    temperature = body.temperature
    if temperature is not None and temperature < 0:
        raise Refused.value(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if temperature is not None and temperature > 2:
        raise Refused.value(f"temperature must be in [0, 2], got {temperature}.", "temperature", temperature)
    if body.top_p is not None and not 0.0 < body.top_p <= 1.0:
        raise Refused.value(f"top_p must be in (0, 1], got {body.top_p}.", "top_p", body.top_p)
    if body.top_k is not None and body.top_k < -1:
        raise Refused(400, f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise Refused(400, f"min_p must be in [0, 1], got {body.min_p}.")


def _check_logprobs(body: Body) -> None:
    for kind, name, count in (
        ("sample", "logprobs", body.wanted_logprobs),
        ("prompt", "prompt_logprobs", body.wanted_prompt_logprobs),
    ):
        if count is not None and count > MOST_LOGPROBS:
            message = f"Requested {kind} logprobs of {count}, which is greater than max allowed: {MOST_LOGPROBS}"
            raise Refused.value(message, name, count)
