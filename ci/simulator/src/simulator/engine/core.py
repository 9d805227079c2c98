"""An engine in virtual time that computes many decode steps at once.

Events are an arrival, a chunk of a prompt, the end of a sequence, and a full cache. Between two events each step adds
one token to every sequence and a constant to the step time. Such steps form a batch.
"""

from collections import deque

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import StepTime

from simulator.engine.scheduler import Scheduler
from simulator.engine.sequence import EngineRequest, Finished, FirstToken, Sequence
from simulator.engine.steps import Counters, EngineInternals, EngineState, MetricsView, StepBatch
from simulator.workload.content import Content

HISTORY_S = 0.2
"""Judgement: enough for a reader that polls the metrics twenty times a second without delay."""


class Engine:
    """Computes submitted requests. The caller calls `advance` at each `next_s`."""

    def __init__(self, config: EngineConfig, step_time: StepTime, history_s: float = HISTORY_S) -> None:
        """`history_s` is how far before the current batch of steps `state` can look back.

        Raises ValueError for settings that the scheduler does not support.
        """
        self.config = config
        self.step_time = step_time
        self.slowdown = 1.0
        """Factor on the duration of steps that begin from now on."""
        self.next_s: float | None = None
        """When the current batch of steps ends. None if the engine is idle."""
        self._scheduler = Scheduler(config)
        self._arrived: list[Sequence] = []
        """Sequences that arrived during the current step. The scheduler receives them when it has ended."""
        self._counters = Counters()
        self._loras: dict[str, int] = {}
        """Number of unfinished requests with at least one token, by adapter."""
        self._history_s = history_s
        self._views = deque([self._metrics_view(0.0, None, self._state())])
        """Views of the latest batches. The last one is of the current batch."""

    @property
    def current_batch(self) -> StepBatch | None:
        """The current batch of steps, None if the engine is idle."""
        return self._views[-1].batch

    def look_inside(self, prompt_tokens: int) -> EngineInternals:
        """Return what a scheduler with perfect information uses to place a prompt of `prompt_tokens`."""
        size, scheduler = self.config.block_size, self._scheduler
        running, prefilling = scheduler.running, scheduler.prefilling
        lengths = [scheduler.length(sequence) for sequence in running]
        waiting_tokens = sum(sequence.length for sequence in (*scheduler.deferred, *scheduler.queued, *self._arrived))
        left = sorted(
            (sequence.request.prompt_tokens + sequence.request.output_tokens - length, length)
            for sequence, length in zip(running, lengths, strict=True)
        )
        lacking = -(-(prompt_tokens + waiting_tokens) // size) - scheduler.pool.free
        steps = 0
        for steps_left, length in left:
            if lacking <= 0:
                break
            # Ended sequences free their blocks. The others have allocated some meanwhile.
            lacking -= -(-length // size) - (steps_left - steps) * len(left) // size
            steps = steps_left
        return EngineInternals(
            sequences=len(lengths) + scheduler.waiting + len(self._arrived),
            uncomputed_tokens=waiting_tokens + (prefilling.length - prefilling.computed if prefilling else 0),
            context_tokens=sum(lengths) + waiting_tokens,
            steps_until_it_fits=steps,
            loras=frozenset(sequence.request.lora for sequence in running if sequence.request.lora is not None),
        )

    def cached_tokens(self, content: Content, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt a look-up finds now."""
        size, pool = self.config.block_size, self._scheduler.pool
        return sum(count for _, count in pool.find(content.spans(0, prompt_tokens // size, size))) * size

    def state(self, at_s: float) -> EngineState:
        """Return what the metrics showed at `at_s`, now or within the history. Raises ValueError for earlier times."""
        for view in reversed(self._views):
            if view.since_s <= at_s:
                return view.at(at_s)
        raise ValueError(f"{at_s} s is before the history")

    def submit(self, request: EngineRequest, now_s: float) -> None:
        """Accept `request`. It is queued when the current step has ended."""
        self._arrived.append(Sequence(request, request.prompt_tokens, now_s))
        self.interrupt(now_s)
        if self.next_s is None:
            self._begin(now_s)

    def interrupt(self, now_s: float) -> None:
        """End the current batch with its current step, because an input has changed."""
        batch = self.current_batch
        if batch is not None and batch.steps > 1:
            batch.steps = batch.steps_until(now_s)
            self.next_s = batch.begun_s + batch.duration_s(batch.steps)

    def advance(self) -> list[FirstToken | Finished]:
        """End the current batch, at `next_s`, and begin the next one. Returns the events of the ended batch."""
        batch, now_s = self.current_batch, self.next_s
        assert batch is not None, "the engine is idle"
        assert now_s is not None, "the engine is idle"
        step = batch.first
        prefilled, ended = self._scheduler.complete(step, batch.steps, batch.blocks_after_first(batch.steps))
        if self.config.enable_prefix_caching:
            self._counters.looked_up(step.admitted)
        self._counters.steps += batch.steps
        self._counters.generated += batch.steps * step.decoding + len(prefilled)
        # A preempted sequence is prefilled again, but has had its first token.
        events: list[FirstToken | Finished] = [
            self._first_token(sequence, now_s)
            for sequence in prefilled
            if sequence.length == sequence.request.prompt_tokens + 1
        ]
        for sequence in ended:
            events.append(Finished(sequence.request.number, now_s, sequence.preemptions))
            self._remove_lora(sequence.request.lora)
        self._begin(now_s)
        return events

    def _first_token(self, sequence: Sequence, now_s: float) -> FirstToken:
        request = sequence.request
        self._counters.first_token(sequence, now_s)
        if request.lora is not None:
            self._loras[request.lora] = self._loras.get(request.lora, 0) + 1
        return FirstToken(request.number, now_s, sequence.cached_tokens or 0)

    def _remove_lora(self, lora: str | None) -> None:
        if lora is not None:
            self._loras[lora] -= 1
            if not self._loras[lora]:
                del self._loras[lora]

    def _begin(self, now_s: float) -> None:
        """Schedule the next step and all following ones that are like it."""
        before = self._state()
        self._scheduler.queued.extend(self._arrived)
        self._arrived.clear()
        batch = self._next_batch(now_s)
        self.next_s = None if batch is None else now_s + batch.duration_s(batch.steps)
        self._views.append(self._metrics_view(now_s, batch, before))
        while self._views[1].since_s < now_s - self._history_s:
            self._views.popleft()

    def _next_batch(self, now_s: float) -> StepBatch | None:
        """Return the next batch, None if there is nothing to compute."""
        scheduler, cost = self._scheduler, self.step_time
        step = scheduler.schedule()
        if not step.decoding and not step.chunks and not step.preempts:
            return None
        steps = scheduler.steps_like(step)
        return StepBatch(
            begun_s=now_s,
            first_s=self.slowdown * cost.seconds(step.decoding, step.prefill_tokens, step.context_tokens),
            growth_s=self.slowdown * cost.per_context_token_s * step.decoding,
            steps=steps,
            first=step,
            blocks_per_step=scheduler.blocks_per_step() if steps > 1 else [],
        )

    def _state(self) -> EngineState:
        """Return what the metrics show between two steps."""
        scheduler = self._scheduler
        return EngineState(
            running=len(scheduler.running),
            waiting=scheduler.waiting,
            kv_cache_usage=1.0 - scheduler.pool.free / scheduler.pool.usable,
            loras=frozenset(self._loras),
            counters=self._counters.progress(),
            steps=self._counters.steps,
            generated=self._counters.generated,
        )

    def _metrics_view(self, since_s: float, batch: StepBatch | None, before: EngineState) -> MetricsView:
        """Return what the metrics show from now on."""
        scheduler = self._scheduler
        return MetricsView(
            since_s=since_s,
            batch=batch,
            before=before,
            running=len(scheduler.running),
            waiting=scheduler.waiting,
            usable_blocks=scheduler.pool.usable,
            free_blocks=scheduler.pool.free,
        )
