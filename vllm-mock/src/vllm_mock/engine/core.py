"""The engine: scheduler, metrics and step times. Every time is a value in seconds; nothing here reads a clock."""

import heapq
from collections.abc import Sequence

from vllm_mock.engine.blocks import BlockListener
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, NewTokens, Sampler
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.engine.sequence_state import Schedule, SequenceState
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics


class Engine:
    """Computes requests step by step.

    A driver calls `add`, `begin_step` and `end_step` at times of its own. In virtual time, `submit` and `advance_to`
    take their place.
    """

    def __init__(
        self,
        config: EngineConfig,
        sampler: Sampler,
        step_time: StepTime,
        metrics: EngineMetrics | None = None,
        kv_events: BlockListener | None = None,
    ) -> None:
        """Without `metrics` nothing is counted: simulations that use tokens only do not need them."""
        self.config = config
        self.scheduler = Scheduler(config, sampler, kv_events)
        self.step_time = step_time
        self._metrics = metrics
        self._kv_events = kv_events
        self._schedule: Schedule | None = None
        self._coming: list[tuple[float, int, EngineRequest]] = []
        self._submitted = 0
        self._live = 0
        self._arrived: dict[str, tuple[float, EngineRequest]] = {}
        """Requests that arrived during the current step, by id, with their time of arrival. The scheduler receives them
        when the step has ended, so the step's metrics do not count them as waiting."""
        self._now_s = 0.0
        self._step_ends_s: float | None = None
        self._loras: dict[str, int] = {}
        """Number of live requests with at least one token, by adapter, in order of the adapters' first appearance."""

    @property
    def metrics(self) -> EngineMetrics:
        """Raises LookupError if the engine has no metrics."""
        if self._metrics is None:
            raise LookupError("the engine has no metrics")
        return self._metrics

    @property
    def live_requests(self) -> int:
        """Number of running and waiting requests."""
        return self._live

    def add(self, request: EngineRequest, now_s: float) -> None:
        """Accept `request`. It is queued when the current step has ended."""
        self._arrived[request.request_id] = now_s, request
        self._live += 1

    def abort(self, request_id: str) -> None:
        """Remove a request whose client has disconnected. It is not counted as finished."""
        live = self._remove(request_id)
        if live is not None:
            self._left(live)

    def finish(self, request_id: str, reason: FinishReason, now_s: float) -> None:
        """Remove a request that the front end ends, at a stop string or a shutdown. It is counted as finished."""
        live = self._remove(request_id)
        if live is not None:
            self._finished(live, reason, now_s)

    @property
    def current_step(self) -> Schedule | None:
        """The step that has begun and not ended, None between steps."""
        return self._schedule

    def begin_step(self, now_s: float) -> float | None:
        """Schedule a step and return its duration in seconds. None means that there is nothing to compute."""
        self._queue_arrived(now_s)
        self._schedule = schedule = self.scheduler.schedule()
        if schedule is None:
            return None
        for live in schedule.new:
            live.scheduled_s = now_s
        return self.step_time.duration_s(schedule)

    def end_step(self, now_s: float) -> list[NewTokens]:
        """End the current step and return its tokens."""
        schedule, self._schedule = self._schedule, None
        assert schedule is not None, "no step has begun"
        given, lost = self.scheduler.complete()
        if self._kv_events is not None:
            self._kv_events.step_ended()
        metrics = self._metrics
        if metrics is not None:
            if self.config.enable_prefix_caching:
                for live in schedule.new:
                    if not live.request.prompt_logprobs:
                        metrics.looked_up(live.prompt_tokens, live.cached_tokens)
            self._count(metrics, given, lost, now_s)
        else:
            for live in given:
                if live.finish_reason is not None:
                    self._left(live)
        return [_new_tokens(live) for live in given]

    def idle(self, now_s: float) -> None:
        """Update the rates of an engine that has had no step for a while."""
        if self._metrics is not None:
            self._metrics.idle(now_s)

    def submit(self, request: EngineRequest, at_s: float) -> None:
        """In virtual time: let `request` arrive at `at_s`. Raises ValueError if that is in the past."""
        if at_s < self._now_s:
            raise ValueError(f"arrival at {at_s} s is before the current time, {self._now_s} s")
        self._submitted += 1
        heapq.heappush(self._coming, (at_s, self._submitted, request))

    def advance_to(self, until_s: float, every_token: bool = True) -> list[tuple[float, NewTokens]]:
        """In virtual time: return all tokens up to `until_s` with their times.

        Without `every_token`, return only the first and last tokens of requests. Deterministic; does not sleep.
        """
        tokens: list[tuple[float, NewTokens]] = []
        while True:
            if self._step_ends_s is not None:
                if self._step_ends_s > until_s:
                    break
                self._now_s, self._step_ends_s = self._step_ends_s, None
                tokens += [
                    (self._now_s, new_tokens)
                    for new_tokens in self.end_step(self._now_s)
                    if every_token or new_tokens.finish_reason is not None or self._is_first(new_tokens)
                ]
            self._arrive()
            duration_s = self.begin_step(self._now_s)
            if duration_s is not None:
                self._step_ends_s = self._now_s + duration_s
            elif self._coming and self._coming[0][0] <= until_s:
                self._now_s = self._coming[0][0]
            else:
                break
        self._now_s = max(self._now_s, until_s)
        return tokens

    def _is_first(self, tokens: NewTokens) -> bool:
        live = self.scheduler.get(tokens.request_id)
        return live is not None and live.generated == 1

    def _queue_arrived(self, now_s: float) -> None:
        """Pass arrived requests to the scheduler.

        The step of a late real-time driver may begin before an arrival: then the request arrives when the step begins.
        """
        for arrived_s, request in self._arrived.values():
            live = self._queued(request, min(arrived_s, now_s))
            live.queued_s = now_s
        self._arrived.clear()

    def _queued(self, request: EngineRequest, arrived_s: float) -> SequenceState:
        live = self.scheduler.add(request)
        live.arrived_s = live.queued_s = arrived_s
        return live

    def _remove(self, request_id: str) -> SequenceState | None:
        """Remove a request, also one that the scheduler has not received yet. None if there is no such request."""
        arrived = self._arrived.pop(request_id, None)
        if arrived is not None:
            arrived_s, request = arrived
            self._queued(request, arrived_s)
        return self.scheduler.remove(request_id)

    def _arrive(self) -> None:
        while self._coming and self._coming[0][0] <= self._now_s:
            at_s, _, request = heapq.heappop(self._coming)
            self.add(request, at_s)

    def _count(self, metrics: EngineMetrics, given: Sequence[SequenceState], lost: int, now_s: float) -> None:
        """Update the metrics after a step in which the requests `given` got a token and `lost` removed ones did not."""
        computed = same_latency = 0
        latency_s = -1.0
        for live in given:
            if live.first_token_s is None:
                computed += self._first_token(metrics, live, now_s)
            elif now_s - live.last_token_s == latency_s:
                same_latency += 1
            else:
                metrics.later_tokens(latency_s, same_latency)
                latency_s, same_latency = now_s - live.last_token_s, 1
            live.last_token_s = now_s
            if live.preemptions > live.preemptions_counted:
                metrics.resumed(live.preemptions - live.preemptions_counted)
                live.preemptions_counted = live.preemptions
            if live.finish_reason is not None:
                self._finished(live, live.finish_reason, now_s)
        metrics.later_tokens(latency_s, same_latency)
        if given or lost:
            metrics.output(len(given), computed + len(given), now_s)
            if self.config.enable_lora:
                metrics.adapters(tuple(self._loras))
        scheduler = self.scheduler
        metrics.step(len(scheduler.running), len(scheduler.queued), len(scheduler.deferred), scheduler.pool.usage)

    def _first_token(self, metrics: EngineMetrics, live: SequenceState, now_s: float) -> int:
        """Count a request's first token. Returns how many of its prompt tokens were computed."""
        live.first_token_s = now_s
        metrics.first_token(live.prompt_tokens, live.cached_tokens, now_s - live.arrived_s)
        if live.lora is not None:
            self._loras[live.lora] = self._loras.get(live.lora, 0) + 1
        return live.prompt_tokens - live.cached_tokens

    def _finished(self, live: SequenceState, reason: FinishReason, now_s: float) -> None:
        self._left(live)
        if self._metrics is None:
            return
        scheduled_s = live.scheduled_s if live.scheduled_s is not None else now_s
        first_s = live.first_token_s if live.first_token_s is not None else now_s
        self._metrics.finished(
            live.request,
            reason,
            live.generated,
            live.cached_tokens,
            live.preemptions,
            e2e_s=now_s - live.arrived_s,
            queue_s=scheduled_s - live.queued_s,
            prefill_s=first_s - scheduled_s,
            decode_s=max(live.last_token_s, first_s) - first_s,
        )

    def _left(self, live: SequenceState) -> None:
        """Update the counts of live requests and of adapters in use."""
        self._live -= 1
        if live.lora is not None and live.first_token_s is not None:
            self._loras[live.lora] -= 1
            if not self._loras[live.lora]:
                del self._loras[live.lora]


def _new_tokens(live: SequenceState) -> NewTokens:
    token = live.tokens[-1]
    stop_token = token if live.finish_reason is FinishReason.STOP else None
    return NewTokens(live.request_id, (token,), live.finish_reason, stop_token, live.cached_tokens)
