"""Small engines for tests."""

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, EngineRequest
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics

STEP_TIME = StepTime(28.6e-3, 0.157e-3, 0.2013e-3, 1.1037e-6)


class Text:
    """Samples tokens that differ between requests and positions."""

    def token(self, request: EngineRequest, position: int) -> int:
        return 1_000_000 * (request.seed + 1) + position


def engine(config: EngineConfig, step_time: StepTime = STEP_TIME, profile: str = "v1-current") -> Engine:
    return Engine(config, Text(), step_time, EngineMetrics(config, "m", profile, unix_s=lambda: 1e9))


def request(name: str, prompt: int, max_tokens: int, **more: object) -> EngineRequest:
    """A request whose prompt of `prompt` tokens shares no prefix with that of another name."""
    seed = sum(ord(letter) * 131**index for index, letter in enumerate(name)) % 100_003
    tokens = tuple(range(1000 * seed, 1000 * seed + prompt))
    return EngineRequest(request_id=name, prompt=tokens, max_tokens=max_tokens, seed=seed, **more)  # type: ignore[arg-type]
