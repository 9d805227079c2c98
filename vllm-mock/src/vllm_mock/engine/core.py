"""An engine: the scheduler, its metrics and its step times, with time as a value."""

import heapq
from collections.abc import Sequence
from itertools import pairwise

from vllm_mock.engine.blocks import BlockListener
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, NewTokens, Sampler
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.engine.sequence_state import Live, Schedule
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics

_LONGEST_LEAP = 1024
"""Steps that virtual time takes at once at most."""


class Engine:
    """Feed it requests and steps, or let `advance_to` step it through virtual time."""

    def __init__(
        self,
        config: EngineConfig,
        sampler: Sampler,
        step_time: StepTime,
        metrics: EngineMetrics | None = None,
        kv_events: BlockListener | None = None,
    ) -> None:
        """Without `metrics` nothing is counted, which simulations that look at tokens alone do not need."""
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
        """By id, with the time of arrival: what came during the step under way. The scheduler sees it when that has
        ended, so it is not among the waiting ones that the step's metrics show."""
        self._now_s = 0.0
        self._step_ends_s: float | None = None
        self._loras: dict[str, int] = {}
        """Live requests that had a token, by adapter, in the order in which the adapters appeared."""

    @property
    def metrics(self) -> EngineMetrics:
        """Raises LookupError when the engine was made without."""
        if self._metrics is None:
            raise LookupError("this engine was made without metrics")
        return self._metrics

    @property
    def live_requests(self) -> int:
        """Running and waiting."""
        return self._live

    def add(self, request: EngineRequest, now_s: float) -> None:
        """`request` arrives; it is queued when the step under way has ended."""
        self._arrived[request.request_id] = now_s, request
        self._live += 1

    def abort(self, request_id: str) -> None:
        """The client has gone: the request leaves without a trace in the finished counts."""
        live = self._taken_out(request_id)
        if live is not None:
            self._left(live)

    def finish(self, request_id: str, reason: FinishReason, now_s: float) -> None:
        """The front end has ended a request (a stop string, a shutdown): it counts as finished."""
        live = self._taken_out(request_id)
        if live is not None:
            self._finished(live, reason, now_s)

    @property
    def current_step(self) -> Schedule | None:
        """The step that has begun and not ended."""
        return self._schedule

    def begin_step(self, now_s: float) -> float | None:
        """Schedule a step; how long it takes (seconds), None when there is nothing to do."""
        self._queue_arrived(now_s)
        self._schedule = schedule = self.scheduler.schedule()
        if schedule is None:
            return None
        for live in schedule.new:
            live.scheduled_s = now_s
        return self.step_time.duration_s(schedule)

    def end_step(self, now_s: float) -> list[NewTokens]:
        """The tokens of the step begun last."""
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
        """There has been no step for a while."""
        if self._metrics is not None:
            self._metrics.idle(now_s)

    def submit(self, request: EngineRequest, at_s: float) -> None:
        """In virtual time: `request` arrives at `at_s`, which must not be past."""
        if at_s < self._now_s:
            raise ValueError(f"arrival at {at_s} s, but it is {self._now_s} s already")
        self._submitted += 1
        heapq.heappush(self._coming, (at_s, self._submitted, request))

    def advance_to(self, until_s: float, every_token: bool = True) -> list[tuple[float, NewTokens]]:
        """In virtual time: every token up to `until_s`, with its time; without `every_token` only those of requests'
        first tokens and ends. No sleeping; deterministic."""
        tokens: list[tuple[float, NewTokens]] = []
        while True:
            if self._step_ends_s is not None:
                if self._step_ends_s > until_s:
                    break
                self._now_s, self._step_ends_s = self._step_ends_s, None
                self._arrive()
                tokens += [
                    (self._now_s, each)
                    for each in self.end_step(self._now_s)
                    if every_token or each.finish_reason is not None or self._is_first(each)
                ]
            self._arrive()
            if self._leap(until_s, tokens if every_token else None):
                continue
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
        """The scheduler sees what has arrived. A driver in real time may be late with its steps, whose time is then
        before an arrival's."""
        for arrived_s, request in self._arrived.values():
            live = self._queued(request, min(arrived_s, now_s))
            live.queued_s = now_s
        self._arrived.clear()

    def _queued(self, request: EngineRequest, arrived_s: float) -> Live:
        live = self.scheduler.add(request)
        live.arrived_s = live.queued_s = arrived_s
        return live

    def _taken_out(self, request_id: str) -> Live | None:
        """A request is over, whether the scheduler has seen it or not. None when there is no such request."""
        arrived = self._arrived.pop(request_id, None)
        if arrived is not None:
            arrived_s, request = arrived
            self._queued(request, arrived_s)
        return self.scheduler.remove(request_id)

    def _arrive(self) -> None:
        while self._coming and self._coming[0][0] <= self._now_s:
            at_s, _, request = heapq.heappop(self._coming)
            self.add(request, at_s)

    def _leap(self, until_s: float, tokens: list[tuple[float, NewTokens]] | None) -> bool:
        """Take steps that do nothing but decode at once, up to `until_s` or the next arrival. Exact: states, metrics
        and times are those of one step at a time. False when there are not at least two."""
        self._queue_arrived(self._now_s)
        scheduler = self.scheduler
        steps = scheduler.steady_steps(_LONGEST_LEAP)
        if steps < 2:
            return False
        arrival_s = self._coming[0][0] if self._coming else until_s
        ends_s = self._ends_s(steps, min(until_s, arrival_s), until_s)
        if len(ends_s) < 2:
            return False
        running = scheduler.running
        before = [len(live.tokens) for live in running]
        scheduler.decode(len(ends_s))
        if self._kv_events is not None:
            self._kv_events.step_ended()
        if self._metrics is not None:
            self._count_leap(self._metrics, running, ends_s)
        for live in running:
            live.last_token_s = ends_s[-1]
        self._now_s = ends_s[-1]
        if tokens is not None:
            streams = [
                (live.request_id, live.tokens[start:].tolist(), live.cached_tokens)
                for live, start in zip(running, before, strict=True)
            ]
            for step, end_s in enumerate(ends_s):
                tokens += [
                    (end_s, NewTokens(name, (drawn[step],), None, None, cached)) for name, drawn, cached in streams
                ]
        self._arrive()
        return True

    def _ends_s(self, steps: int, begin_before_s: float, until_s: float) -> list[float]:
        """When each of the next `steps` decode steps ends: those that begin before `begin_before_s` and end by
        `until_s`."""
        decoding = len(self.scheduler.running)
        context = sum(live.computed for live in self.scheduler.running)
        ends_s: list[float] = []
        end_s = self._now_s
        for _ in range(steps):
            if end_s >= begin_before_s:
                break
            end_s += self.step_time.seconds(decoding, 0, context)
            if end_s > until_s:
                break
            ends_s.append(end_s)
            context += decoding
        return ends_s

    def _count_leap(self, metrics: EngineMetrics, running: Sequence[Live], ends_s: Sequence[float]) -> None:
        decoding = len(running)
        for live in running:
            metrics.later_tokens(ends_s[0] - live.last_token_s, 1)
        for earlier_s, later_s in pairwise(ends_s):
            metrics.later_tokens(later_s - earlier_s, decoding)
        for end_s in ends_s:
            metrics.output(decoding, decoding, end_s)
        scheduler = self.scheduler
        metrics.step(decoding, len(scheduler.queued), len(scheduler.deferred), scheduler.pool.usage)
        if self.config.enable_lora:
            metrics.adapters(tuple(self._loras))

    def _count(self, metrics: EngineMetrics, given: Sequence[Live], lost: int, now_s: float) -> None:
        """What a step that gave `given` tokens does to the metrics."""
        computed = alike = 0
        latency_s = -1.0
        for live in given:
            if live.first_token_s is None:
                computed += self._first_token(metrics, live, now_s)
            elif now_s - live.last_token_s == latency_s:
                alike += 1
            else:
                metrics.later_tokens(latency_s, alike)
                latency_s, alike = now_s - live.last_token_s, 1
            live.last_token_s = now_s
            if live.preemptions > live.preemptions_counted:
                metrics.resumed(live.preemptions - live.preemptions_counted)
                live.preemptions_counted = live.preemptions
            if live.finish_reason is not None:
                self._finished(live, live.finish_reason, now_s)
        metrics.later_tokens(latency_s, alike)
        if given or lost:
            metrics.output(len(given), computed + len(given), now_s)
            if self.config.enable_lora:
                metrics.adapters(tuple(self._loras))
        scheduler = self.scheduler
        metrics.step(len(scheduler.running), len(scheduler.queued), len(scheduler.deferred), scheduler.pool.usage)

    def _first_token(self, metrics: EngineMetrics, live: Live, now_s: float) -> int:
        """The prompt tokens that were computed for it."""
        live.first_token_s = now_s
        metrics.first_token(live.prompt_tokens, live.cached_tokens, now_s - live.arrived_s)
        if live.lora is not None:
            self._loras[live.lora] = self._loras.get(live.lora, 0) + 1
        return live.prompt_tokens - live.cached_tokens

    def _finished(self, live: Live, reason: FinishReason, now_s: float) -> None:
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

    def _left(self, live: Live) -> None:
        """It is no longer among the live requests, nor its adapter among those in use."""
        self._live -= 1
        if live.lora is not None and live.first_token_s is not None:
            self._loras[live.lora] -= 1
            if not self._loras[live.lora]:
                del self._loras[live.lora]


def _new_tokens(live: Live) -> NewTokens:
    token = live.tokens[-1]
    stop_token = token if live.finish_reason is FinishReason.STOP else None
    return NewTokens(live.request_id, (token,), live.finish_reason, stop_token, live.cached_tokens)
