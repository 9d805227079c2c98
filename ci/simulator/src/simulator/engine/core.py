"""An engine in virtual time that computes many decode steps at once.

`vllm_mock.engine.scheduler` explains the rules of scheduling. Events are an arrival, a chunk of a prompt, the end of a
sequence, and a full cache. Between two events each step adds one token to every sequence and a constant to the step
time. Such steps form a batch.
"""

import heapq
from collections import deque

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import StepTime

from simulator.engine.blocks import BlockPool
from simulator.engine.sequence import EngineRequest, Finished, FirstToken, Sequence
from simulator.engine.steps import Counters, EngineInternals, EngineState, MetricsView, Step, StepBatch
from simulator.workload.content import Content

HISTORY_S = 0.2
"""Judgement: enough for a reader that polls the metrics twenty times a second without delay."""


class Engine:
    """Computes submitted requests. The caller calls `advance` at each `next_s`."""

    def __init__(self, config: EngineConfig, step_time: StepTime, history_s: float = HISTORY_S) -> None:
        """`history_s` is how far before the current batch of steps `state` can look back.

        Raises ValueError for settings under which decoding sequences could exceed the token budget.
        """
        if config.max_num_batched_tokens <= config.max_num_seqs or not config.enable_chunked_prefill:
            raise ValueError("max_num_batched_tokens must exceed max_num_seqs, and prefill must be chunked")
        self.config = config
        self.step_time = step_time
        self.slowdown = 1.0
        """Factor on the duration of steps that begin from now on."""
        self.next_s: float | None = None
        """When the current batch of steps ends. None if the engine is idle."""
        self._pool = BlockPool(config.num_gpu_blocks)
        self._waiting: deque[Sequence] = deque()
        self._deferred: deque[Sequence] = deque()
        """Sequences passed over because of their LoRA adapter. They come before those of `_waiting`."""
        self._arriving: list[Sequence] = []
        self._running: dict[Sequence, None] = {}
        self._prefilling: Sequence | None = None
        """The running sequence that is partly computed. At most one, and always the last."""
        self._decoding = 0
        self._offsets = 0
        """Sum of the offsets of the decoding sequences."""
        self._phases = [0] * config.block_size
        """Number of decoding sequences by (offset - 1) modulo the block size, which decides when they need a block."""
        self._ends: list[tuple[int, int, int, Sequence]] = []
        """Heap of (step, order, epoch, sequence): the step in which a decoding sequence gets its last token."""
        self._order = 0
        self._step = 0
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
        size = self.config.block_size
        lengths = [
            sequence.offset + self._step if sequence.offset is not None else sequence.length
            for sequence in self._running
        ]
        queued = [*self._deferred, *self._waiting, *self._arriving]
        uncomputed = sum(sequence.length for sequence in queued)
        if self._prefilling is not None:
            uncomputed += self._prefilling.length - self._prefilling.computed
        left = sorted(
            (sequence.request.prompt_tokens + sequence.request.output_tokens - length, length)
            for sequence, length in zip(self._running, lengths, strict=True)
        )
        lacking = -(-(prompt_tokens + sum(sequence.length for sequence in queued)) // size) - self._pool.free
        steps = 0
        for steps_left, length in left:
            if lacking <= 0:
                break
            # Ended sequences free their blocks; the others have allocated some meanwhile.
            lacking -= -(-length // size) - (steps_left - steps) * len(left) // size
            steps = steps_left
        return EngineInternals(
            sequences=len(lengths) + len(queued),
            uncomputed_tokens=uncomputed,
            context_tokens=sum(lengths) + sum(sequence.length for sequence in queued),
            steps_until_it_fits=steps,
            loras=frozenset(sequence.request.lora for sequence in self._running if sequence.request.lora is not None),
        )

    def _length(self, sequence: Sequence) -> int:
        return sequence.length if sequence.offset is None else sequence.offset + self._step

    def cached_tokens(self, content: Content, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt a look-up finds now."""
        size = self.config.block_size
        return sum(count for _, count in self._pool.find(content.spans(0, prompt_tokens // size, size))) * size

    def state(self, at_s: float) -> EngineState:
        """Return what the metrics showed at `at_s`, now or within the history. Raises ValueError for earlier times."""
        for view in reversed(self._views):
            if view.since_s <= at_s:
                return view.at(at_s)
        raise ValueError(f"{at_s} s is before the history")

    def submit(self, request: EngineRequest, now_s: float) -> None:
        """Accept `request`. It is queued when the current step has ended."""
        self._arriving.append(Sequence(request, request.prompt_tokens, now_s))
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
        """End the current batch, at `next_s`, and begin the next one. Returns the ended batch's events, unordered."""
        batch, now_s = self.current_batch, self.next_s
        assert batch is not None, "the engine is idle"
        assert now_s is not None, "the engine is idle"
        self._pool.take(self._views[-1].blocks_after_first(batch.steps))
        self._step += batch.steps
        if self.config.enable_prefix_caching:
            self._counters.looked_up(batch.first.admitted)
        events: list[FirstToken | Finished] = []
        for sequence in batch.first.prefilled:
            if sequence.length == sequence.request.prompt_tokens:
                events.append(FirstToken(sequence.request.number, now_s, sequence.cached_tokens or 0))
                self._counters.first_token(sequence, now_s)
                if sequence.request.lora is not None:
                    self._loras[sequence.request.lora] = self._loras.get(sequence.request.lora, 0) + 1
            sequence.length += 1
            self._decode(sequence)
        while self._ends and self._ends[0][0] < self._step:
            _, _, epoch, sequence = heapq.heappop(self._ends)
            if sequence.epoch == epoch:
                self._finish(sequence)
                events.append(Finished(sequence.request.number, now_s, sequence.preemptions))
        self._begin(now_s)
        return events

    def _begin(self, now_s: float) -> None:
        """Schedule the next step and all following ones that are like it."""
        before = self._state()
        self._waiting.extend(self._arriving)
        self._arriving.clear()
        partial = self._prefilling
        budget = self.config.max_num_batched_tokens - self._decoding
        chunk = min(partial.length - partial.computed, budget) if partial is not None else 0
        needed = self._phases[-self._step % self.config.block_size]
        fits = needed + self._blocks_needed(partial, chunk) <= self._pool.free
        if fits:
            self._pool.take(needed)
        else:
            self._make_room(chunk)
            partial = self._prefilling
        step = Step(self._decoding, self._offsets + self._decoding * (self._step - 1))
        if partial is not None:
            blocks = self._blocks_needed(partial, chunk)
            self._pool.take(blocks)
            partial.unhashed_blocks += blocks
            step.compute(partial, chunk)
            self._computed(partial, chunk)
            budget -= chunk
        if fits:
            self._admit(budget, step)
        batch = self._plan(now_s, step, steady=fits)
        self.next_s = None if batch is None else now_s + batch.duration_s(batch.steps)
        self._views.append(self._metrics_view(now_s, batch, before))
        while self._views[1].since_s < now_s - self._history_s:
            self._views.popleft()

    def _state(self) -> EngineState:
        """Return what the metrics show between two steps."""
        return EngineState(
            running=len(self._running),
            waiting=len(self._deferred) + len(self._waiting),
            kv_cache_usage=1.0 - self._pool.free / self._pool.usable,
            loras=frozenset(self._loras),
            counters=self._counters.progress(),
        )

    def _metrics_view(self, since_s: float, batch: StepBatch | None, before: EngineState) -> MetricsView:
        """Return what the metrics show from now on."""
        blocks_per_step: list[int] = []
        if batch is not None and batch.steps > 1:
            first = -self._step % self.config.block_size
            blocks_per_step = self._phases[first::-1] + self._phases[:first:-1]
        return MetricsView(
            since_s=since_s,
            batch=batch,
            before=before,
            running=len(self._running),
            waiting=len(self._deferred) + len(self._waiting),
            usable_blocks=self._pool.usable,
            free_blocks=self._pool.free,
            blocks_per_step=blocks_per_step,
        )

    def _plan(self, now_s: float, step: Step, steady: bool) -> StepBatch | None:
        """Return the batch that begins with `step`. `steady`: the steps after it may be like it."""
        if not step.decoding and not step.prefill_tokens and steady:
            return None
        cost = self.step_time
        first_s = self.slowdown * cost.seconds(step.decoding, step.prefill_tokens, step.context_tokens)
        steps = 1
        if steady and not step.chunks:
            ends = self._ends
            while ends[0][2] != ends[0][3].epoch:
                heapq.heappop(ends)
            steps = self._steps_with_blocks(ends[0][0] - self._step + 1)
        growth_s = self.slowdown * cost.per_context_token_s * self._decoding
        return StepBatch(now_s, first_s, growth_s, steps, step)

    def _steps_with_blocks(self, limit: int) -> int:
        """Return how many steps, at most `limit`, have enough blocks. The first one has been allocated its blocks."""
        size, free = self.config.block_size, self._pool.free
        if (limit // size + 1) * self._decoding <= free:
            return limit
        steps = 1 + free // self._decoding * size
        free %= self._decoding
        while steps < limit and (needed := self._phases[-(self._step + steps) % size]) <= free:
            free -= needed
            steps += 1
        return min(steps, limit)

    def _blocks_needed(self, sequence: Sequence | None, count: int) -> int:
        """Return how many blocks a sequence lacks to compute `count` more tokens."""
        if sequence is None:
            return 0
        return -(-(sequence.computed + count) // self.config.block_size) - sequence.blocks

    def _make_room(self, chunk: int) -> None:
        """Allocate the blocks of the decoding sequences for this step, and leave enough for `chunk` tokens more.

        Preempts from the end of the running sequences until there are enough. The prefilling sequence computes the
        `chunk`.
        """
        needing = -self._step % self.config.block_size
        for sequence in list(self._running):
            if sequence not in self._running:
                return
            if sequence.offset is None:
                blocks = self._blocks_needed(sequence, chunk)
            else:
                blocks = int((sequence.offset - 1) % self.config.block_size == needing)
            while self._pool.free < blocks:
                last, _ = self._running.popitem()
                self._preempt(last)
                if last is sequence:
                    return
            if sequence.offset is not None:
                self._pool.take(blocks)

    def _preempt(self, sequence: Sequence) -> None:
        """Move `sequence` to the head of the queue, with nothing computed."""
        self._release(sequence)
        if sequence is self._prefilling:
            self._prefilling = None
        sequence.computed = 0
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)

    def _admit(self, budget: int, step: Step) -> None:
        """Admit sequences from the head of the queue.

        The first that does not fit blocks all behind it. A sequence over the limit of LoRA adapters is passed over.
        """
        if not self._waiting and not self._deferred:
            return
        passed_over: list[Sequence] = []
        loras = {sequence.request.lora for sequence in self._running if sequence.request.lora is not None}
        while budget and len(self._running) < self.config.max_num_seqs:
            queue = self._deferred or self._waiting
            if not queue:
                break
            sequence = queue[0]
            lora = sequence.request.lora
            if lora is not None and lora not in loras and len(loras) >= self.config.max_loras:
                passed_over.append(queue.popleft())
                continue
            count = self._fitting_tokens(sequence, budget)
            if count is None:
                break
            queue.popleft()
            self._running[sequence] = None
            if lora is not None:
                loras.add(lora)
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
                step.admitted.append(sequence)
            step.compute(sequence, count)
            self._computed(sequence, count)
            budget -= count
        self._deferred.extendleft(reversed(passed_over))

    def _fitting_tokens(self, sequence: Sequence, budget: int) -> int | None:
        """Allocate the first blocks of `sequence` and return how many tokens it computes in this step.

        None means that it does not fit. There must be enough free blocks for the whole sequence, though only those of
        the first chunk are allocated.
        """
        size, pool, length = self.config.block_size, self._pool, sequence.length
        findable = (length - 1) // size if self.config.enable_prefix_caching else 0
        found = pool.find(sequence.request.content.spans(0, findable, size))
        cached = sum(count for _, count in found)
        free_among = sum(count for run, count in found if not run.holders)
        if -(-length // size) - cached + free_among > pool.free:
            return None
        sequence.hashed, sequence.hashed_blocks = pool.hold(found), cached
        sequence.computed = cached * size
        count = min(length - sequence.computed, budget)
        sequence.unhashed_blocks = self._blocks_needed(sequence, count)
        pool.take(sequence.unhashed_blocks)
        return count

    def _computed(self, sequence: Sequence, count: int) -> None:
        """Record that `sequence` computes `count` more tokens in this step, and hash the blocks that it fills."""
        sequence.computed += count
        self._hash_full_blocks(sequence)
        if sequence.computed < sequence.length:
            self._prefilling = sequence
        elif self._prefilling is sequence:
            self._prefilling = None

    def _hash_full_blocks(self, sequence: Sequence) -> None:
        size, known = self.config.block_size, sequence.hashed_blocks
        full = sequence.computed // size
        if full > known and self.config.enable_prefix_caching:
            sequence.hashed += self._pool.cache(sequence.request.content.spans(known, full, size))
            sequence.hashed_blocks = full
            sequence.unhashed_blocks -= full - known

    def _decode(self, sequence: Sequence) -> None:
        """Let `sequence`, whose tokens are all computed, decode from the next step on."""
        sequence.offset = offset = sequence.length - self._step
        self._decoding += 1
        self._offsets += offset
        self._phases[(offset - 1) % self.config.block_size] += 1
        self._order += 1
        request = sequence.request
        last_step = request.output_tokens + request.prompt_tokens - offset - 1
        heapq.heappush(self._ends, (last_step, self._order, sequence.epoch, sequence))

    def _finish(self, sequence: Sequence) -> None:
        """Remove `sequence`, which has its last token."""
        del self._running[sequence]
        self._release(sequence)
        lora = sequence.request.lora
        if lora is not None:
            self._loras[lora] -= 1
            if not self._loras[lora]:
                del self._loras[lora]

    def _release(self, sequence: Sequence) -> None:
        """Release the blocks of `sequence`. The full ones stay cached."""
        offset = sequence.offset
        if offset is not None:
            self._decoding -= 1
            self._offsets -= offset
            self._phases[(offset - 1) % self.config.block_size] -= 1
            sequence.offset = None
            sequence.epoch += 1
            sequence.length = offset + self._step
            sequence.computed = sequence.length - 1
            sequence.unhashed_blocks = -(-sequence.computed // self.config.block_size) - sequence.hashed_blocks
            self._hash_full_blocks(sequence)
        self._pool.release(sequence.hashed, sequence.unhashed_blocks)
        sequence.hashed, sequence.hashed_blocks, sequence.unhashed_blocks = [], 0, 0
