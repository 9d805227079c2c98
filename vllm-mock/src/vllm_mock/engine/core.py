"""An engine: the scheduler, its metrics and its step times, with time as a value."""

import heapq
from dataclasses import dataclass

from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, NewTokens, Sampler
from vllm_mock.engine.scheduler import Generated, Live, Schedule, Scheduler
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics


@dataclass(slots=True)
class _Times:
    """Of one request, in seconds on the caller's clock."""

    queued_s: float
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float = 0.0
    preemptions_counted: int = 0


class Engine:
    """Feed it requests and steps, or let `advance_to` step it through virtual time."""

    def __init__(self, config: EngineConfig, sampler: Sampler, step_time: StepTime, metrics: EngineMetrics) -> None:
        self.config = config
        self.metrics = metrics
        self.scheduler = Scheduler(config, sampler)
        self.step_time = step_time
        self._times: dict[str, _Times] = {}
        self._schedule: Schedule | None = None
        self._coming: list[tuple[float, int, EngineRequest]] = []
        self._submitted = 0
        self._now_s = 0.0
        self._step_ends_s: float | None = None

    @property
    def live_requests(self) -> int:
        """Running and waiting."""
        return len(self._times)

    def add(self, request: EngineRequest, now_s: float) -> None:
        """Queue `request` now; it is looked at in the next step."""
        self.scheduler.add(request)
        self._times[request.request_id] = _Times(queued_s=now_s)

    def abort(self, request_id: str) -> None:
        """The client has gone: the request leaves without a trace in the finished counts."""
        self.scheduler.remove(request_id)
        self._times.pop(request_id, None)

    def finish(self, request_id: str, reason: FinishReason, now_s: float) -> None:
        """The front end has ended a request (a stop string): it counts as finished."""
        live = self.scheduler.remove(request_id)
        if live is not None:
            self._finished(live, reason, now_s)

    def begin_step(self, now_s: float) -> float | None:
        """Schedule a step; how long it takes (seconds), None when there is nothing to do."""
        self._schedule = schedule = self.scheduler.schedule()
        if schedule is None:
            return None
        for request_id in schedule.new:
            self._times[request_id].scheduled_s = now_s
        return self.step_time.duration_s(schedule)

    def end_step(self, now_s: float) -> list[NewTokens]:
        """The tokens of the step begun last."""
        schedule = self._schedule
        assert schedule is not None, "no step has begun"
        self._schedule = None
        for request_id, cached in schedule.new.items():
            live = self.scheduler.get(request_id)
            if live is not None and self.config.enable_prefix_caching and not live.request.prompt_logprobs:
                self.metrics.looked_up(len(live.request.prompt), cached)
        given = self.scheduler.complete()
        computed = sum(self._token(each, now_s) for each in given)
        if given:
            self.metrics.generated(len(given))
            self.metrics.step_tokens(computed + len(given))
        scheduler = self.scheduler
        self.metrics.step(len(scheduler.running), len(scheduler.waiting), scheduler.deferred, scheduler.pool.usage)
        return [each.tokens for each in given]

    def submit(self, request: EngineRequest, at_s: float) -> None:
        """In virtual time: `request` arrives at `at_s`, which must not be past."""
        if at_s < self._now_s:
            raise ValueError(f"arrival at {at_s} s, but it is {self._now_s} s already")
        self._submitted += 1
        heapq.heappush(self._coming, (at_s, self._submitted, request))

    def advance_to(self, until_s: float) -> list[tuple[float, NewTokens]]:
        """In virtual time: every token up to `until_s`, with its time. No sleeping; deterministic."""
        tokens: list[tuple[float, NewTokens]] = []
        while True:
            if self._step_ends_s is not None:
                if self._step_ends_s > until_s:
                    break
                self._now_s, self._step_ends_s = self._step_ends_s, None
                self._arrive()
                tokens += ((self._now_s, each) for each in self.end_step(self._now_s))
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

    def _arrive(self) -> None:
        while self._coming and self._coming[0][0] <= self._now_s:
            at_s, _, request = heapq.heappop(self._coming)
            self.add(request, at_s)

    def _token(self, given: Generated, now_s: float) -> int:
        """Count one token; the prompt tokens that were computed for it, if it is a first one."""
        live, tokens = given.live, given.tokens
        times = self._times[tokens.request_id]
        computed = 0
        if times.first_token_s is None:
            times.first_token_s = now_s
            prompt = len(live.request.prompt)
            computed = prompt - live.cached_tokens
            self.metrics.first_token(prompt, live.cached_tokens, now_s - times.queued_s)
        else:
            self.metrics.later_token(now_s - times.last_token_s)
        times.last_token_s = now_s
        if live.preemptions > times.preemptions_counted:
            self.metrics.resumed(live.preemptions - times.preemptions_counted)
            times.preemptions_counted = live.preemptions
        if tokens.finish_reason is not None:
            self._finished(live, tokens.finish_reason, now_s)
        return computed

    def _finished(self, live: Live, reason: FinishReason, now_s: float) -> None:
        times = self._times.pop(live.request.request_id)
        scheduled_s = times.scheduled_s if times.scheduled_s is not None else now_s
        first_s = times.first_token_s if times.first_token_s is not None else now_s
        last_s = times.last_token_s or now_s
        self.metrics.finished(
            live.request,
            reason,
            live.generated,
            live.cached_tokens,
            live.preemptions,
            e2e_s=now_s - times.queued_s,
            queue_s=scheduled_s - times.queued_s,
            prefill_s=first_s - scheduled_s,
            decode_s=last_s - first_s,
        )
