"""A closed-loop benchmark of the mock's engine in virtual time, with a constant number of concurrent requests."""

from dataclasses import dataclass
from statistics import fmean, median

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, EngineRequest
from vllm_mock.engine.speed import StepTime
from vllm_mock.fit.measurements import Measurement

_ROUNDS = 4
"""Requests in total, as a multiple of the concurrency."""
_BLOCKS = 1 << 17
"""KV cache blocks of 16 tokens. So many that the cache never limits."""
_SPREAD = 0.2
"""Output lengths vary by this share of the mean. With equal lengths the requests of the first burst would always end
together."""
_GOLDEN = 0.6180339887498949


class _Text:
    def token(self, request: EngineRequest, position: int) -> int:
        return request.seed


@dataclass(slots=True)
class _Sent:
    at_s: float
    tokens: int
    first_s: float | None = None


def measure(step_time: StepTime, like: Measurement) -> Measurement:
    """Simulates the benchmark `like` of an engine with these step times.

    Returns the median TTFT of all requests after the first burst, and the mean TPOT.
    """
    prompt = round(like.input_tokens)
    config = EngineConfig(
        max_model_len=prompt + round(like.output_tokens * (1 + _SPREAD)) + 2,
        max_num_seqs=max(like.concurrency, 256),
        num_gpu_blocks=_BLOCKS,
        enable_prefix_caching=False,
    )
    engine = Engine(config, _Text(), step_time)
    sent: list[_Sent] = []
    tpots_s: list[float] = []

    def send(at_s: float) -> None:
        shift = _SPREAD * (2 * (len(sent) * _GOLDEN % 1) - 1)
        tokens = max(2, round(like.output_tokens * (1 + shift)))
        engine.add(EngineRequest(request_id=str(len(sent)), prompt=(1,) * prompt, max_tokens=tokens), at_s)
        sent.append(_Sent(at_s, tokens))

    for _ in range(like.concurrency):
        send(0.0)
    now_s = 0.0
    while (duration_s := engine.begin_step(now_s)) is not None:
        now_s += duration_s
        for tokens in engine.end_step(now_s):
            request = sent[int(tokens.request_id)]
            if request.first_s is None:
                request.first_s = now_s
            if tokens.finish_reason is not None:
                tpots_s.append((now_s - request.first_s) / (request.tokens - 1))
                if len(sent) < _ROUNDS * like.concurrency:
                    send(now_s)
    later = sent[like.concurrency :]
    ttfts_s = [request.first_s - request.at_s for request in later if request.first_s is not None]
    return like.model_copy(update={"ttft_ms": 1000 * median(ttfts_s), "tpot_ms": 1000 * fmean(tpots_s)})
