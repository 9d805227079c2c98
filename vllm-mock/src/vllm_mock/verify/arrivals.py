"""Estimates when the requests of a recorded page arrived.

The recordings contain when a client was due to send each request. They do not contain in which step the server first
saw it, or how long the steps were. Both decide which requests share a step. So a search finds the lateness of each
request that comes nearest to the recorded page. The search uses only numbers that arrivals can change; the comparison
covers all.
"""

from collections.abc import Sequence
from random import Random

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.trace_run import Json, UniqueText, recorded_request
from vllm_mock.verify.untimed import histogram_json

_OVERHEAD_S = 0.0006
"""Time of a recorded step above its floor. Measured: 0.5 to 1 ms."""
_LATE_HALF_STEPS = 8
"""Exclusive upper bound of a request's lateness, in half steps. Judgement."""
_STARTS = 40
"""Starting points of the search. The first has no lateness, the others are random."""


def nearest(text: str, workload: Json, config: EngineConfig, start: ServeSettings, ended: bool) -> Engine:
    """Replays the workload up to the number of tokens that the page `text` shows, or to the end if `ended`.

    Returns the engine of the nearest replay. `start` has the model's name and the floor of a step.
    """
    search = _Search(_numbers_of_page(text), workload, config, start, ended)
    random = Random(0)
    best: tuple[float, list[float]] | None = None
    for attempt in range(_STARTS):
        late_s = [random.choice(search.late_s) if attempt else 0.0 for _ in workload["workload"]]
        distance = search.descend(late_s)
        if best is None or distance < best[0]:
            best = distance, late_s
        if not distance:
            break
    assert best is not None
    return search.replay(best[1])


class _Search:
    def __init__(
        self, recorded: Sequence[float], workload: Json, config: EngineConfig, start: ServeSettings, ended: bool
    ) -> None:
        self._step_s = (start.step_floor_s or 0.0) + _OVERHEAD_S
        self._model = start.names[0]
        self.late_s = tuple(self._step_s * half / 2 for half in range(_LATE_HALF_STEPS))
        self._recorded = recorded
        self._config = config
        self._ended = ended
        self._spacing_s: float = workload["arrival_spacing_s"]
        self._requests = [
            recorded_request(f"q{index:03}", work, config.max_model_len)
            for index, work in enumerate(workload["workload"])
        ]

    def descend(self, late_s: list[float]) -> float:
        """Improves one lateness after the other until none can be improved. Returns the remaining distance."""
        now, before = self._distance(late_s), float("inf")
        while 0 < now < before:
            before = now
            for index in range(len(late_s)):
                for late in self.late_s:
                    kept, late_s[index] = late_s[index], late
                    tried = self._distance(late_s)
                    if tried < now:
                        now = tried
                    else:
                        late_s[index] = kept
        return now

    def replay(self, late_s: Sequence[float]) -> Engine:
        config = self._config
        engine = Engine(config, UniqueText(), StepTime(self._step_s, 0.0, 0.0, 0.0), EngineMetrics(config, self._model))
        at_s = 0.0
        for index, (request, late) in enumerate(zip(self._requests, late_s, strict=True)):
            at_s = max(at_s, index * self._spacing_s + late)
            engine.submit(request, at_s)
        if self._ended:
            engine.advance_to(1e6, every_token=False)
            return engine
        now_s, tokens, values = 0.0, self._recorded[0], engine.metrics.values
        while values.generation_tokens < tokens and now_s < at_s + 1e3:
            now_s += self._step_s
            engine.advance_to(now_s)
        return engine

    def _distance(self, late_s: Sequence[float]) -> float:
        ours = _numbers(self.replay(late_s))
        return sum(abs(theirs - mine) for theirs, mine in zip(self._recorded, ours, strict=True))


def _numbers(engine: Engine) -> list[float]:
    """Numbers that arrivals can change. Generated tokens come first."""
    values = engine.metrics.values
    steps = histogram_json(values.histograms["step_tokens"])["buckets"]
    return [
        values.generation_tokens,
        values.kv_cache_usage * 100,
        values.running,
        values.prompt_tokens,
        *steps.values(),
    ]


def _numbers_of_page(text: str) -> list[float]:
    """The numbers of `_numbers`, from a page."""
    rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith("vllm:")]
    found = [(name, float(value)) for name, _, value in rows]

    def of(family: str) -> list[float]:
        return [value for name, value in found if name.startswith(f"vllm:{family}{{")]

    (tokens,), (usage,), (running,), (prompt,) = map(
        of, ("generation_tokens_total", "kv_cache_usage_perc", "num_requests_running", "prompt_tokens_total")
    )
    return [tokens, usage * 100, running, prompt, *of("iteration_tokens_total_bucket")]
