"""An engine in virtual time that takes many decode steps in one stride.

The rules of scheduling are the mock's (`vllm_mock.engine.scheduler`), where they are explained. Between two events
(an arrival, a chunk of a prompt, a sequence that ends, a cache that is full) every step is alike: all sequences grow by
one token, and the step's time by the same amount. So such steps are not taken one by one."""

import heapq
from collections import deque

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.engine.speed import StepTime

from simulator.engine.blocks import BlockPool
from simulator.engine.sequence import EngineRequest, Finished, FirstToken, Sequence
from simulator.engine.steps import Counters, EngineState, Inside, Shown, Step, Stride
from simulator.workload.content import Content

HISTORY_S = 0.2
"""Enough for who looks twenty times a second and knows at once."""


class Engine:
    """Submit requests, and call `advance` whenever `next_s` has come."""

    def __init__(self, config: EngineConfig, step_time: StepTime, history_s: float = HISTORY_S) -> None:
        """`history_s`: how far back from the steps under way what the metrics showed is kept. Raises ValueError for
        settings under which decoding sequences could starve each other of the budget."""
        if config.max_num_batched_tokens <= config.max_num_seqs or not config.enable_chunked_prefill:
            raise ValueError("max_num_batched_tokens must exceed max_num_seqs, and prefill must be chunked")
        self.config = config
        self.step_time = step_time
        self.slowdown = 1.0
        """Times the step time; for steps that begin from now on."""
        self.next_s: float | None = None
        """When the steps under way end; None when there is nothing to do."""
        self._pool = BlockPool(config.num_gpu_blocks)
        self._waiting: deque[Sequence] = deque()
        self._deferred: deque[Sequence] = deque()
        """Passed over for their LoRA adapter; they come before the waiting ones."""
        self._arriving: list[Sequence] = []
        self._running: dict[Sequence, None] = {}
        self._prefilling: Sequence | None = None
        """The one running sequence whose prompt is computed in part; always the last."""
        self._decoding = 0
        self._offsets = 0
        """Sum over the decoding sequences."""
        self._phases = [0] * config.block_size
        """Decoding sequences by (offset - 1) modulo the block size: who needs a block in which step."""
        self._ends: list[tuple[int, int, int, Sequence]] = []
        """Heap of (step, order, epoch, sequence): whose last token which step gives."""
        self._order = 0
        self._step = 0
        self._counters = Counters()
        self._loras: dict[str, int] = {}
        """Requests that have had a token and are not finished, by adapter."""
        self._history_s = history_s
        self._shown = deque([self._show(0.0, None, self._state())])
        """The strides of late, the last one under way."""

    @property
    def live(self) -> list[EngineRequest]:
        """All requests that are not finished."""
        return [each.request for each in (*self._running, *self._deferred, *self._waiting, *self._arriving)]

    def look_inside(self, prompt_tokens: int) -> Inside:
        """What a scheduler would want to know before it sends a prompt."""
        size = self.config.block_size
        lengths = [each.offset + self._step if each.offset is not None else each.length for each in self._running]
        queued = [*self._deferred, *self._waiting, *self._arriving]
        uncomputed = sum(each.length for each in queued)
        if self._prefilling is not None:
            uncomputed += self._prefilling.length - self._prefilling.computed
        left = sorted(
            (each.request.prompt_tokens + each.request.output_tokens - length, length)
            for each, length in zip(self._running, lengths, strict=True)
        )
        lacking = -(-(prompt_tokens + sum(each.length for each in queued)) // size) - self._pool.free
        steps = 0
        for steps_left, length in left:
            if lacking <= 0:
                break
            # What has ended gives its blocks back, less what the others have grown by.
            lacking -= -(-length // size) - (steps_left - steps) * len(left) // size
            steps = steps_left
        return Inside(
            sequences=len(lengths) + len(queued),
            uncomputed_tokens=uncomputed,
            context_tokens=sum(lengths) + sum(each.length for each in queued),
            steps_until_it_fits=steps,
            loras=frozenset(each.request.lora for each in self._running if each.request.lora is not None),
        )

    def cached_tokens(self, content: Content, prompt_tokens: int) -> int:
        """Tokens of a prompt that a look-up would find now."""
        size = self.config.block_size
        return sum(count for _, count in self._pool.find(content.spans(0, prompt_tokens // size, size))) * size

    def state(self, at_s: float) -> EngineState:
        """What the server's metrics showed at `at_s`: now, or within the history. Raises ValueError before that."""
        for shown in reversed(self._shown):
            if shown.since_s <= at_s:
                return shown.at(at_s)
        raise ValueError(f"{at_s} s is too long ago")

    def submit(self, request: EngineRequest, now_s: float) -> None:
        """`request` arrives; it is looked at when the step under way has ended."""
        self._arriving.append(Sequence(request, request.prompt_tokens, now_s))
        self.interrupt(now_s)
        if self.next_s is None:
            self._begin(now_s)

    def interrupt(self, now_s: float) -> None:
        """End the steps under way with the one that ends next: something has changed."""
        stride = self._shown[-1].stride
        if stride is not None and stride.steps > 1:
            stride.steps = stride.steps_until(now_s)
            self.next_s = stride.begun_s + stride.duration_s(stride.steps)

    def advance(self) -> list[FirstToken | Finished]:
        """End the steps under way, at `next_s`, and begin others. What they gave, in no order."""
        stride, now_s = self._shown[-1].stride, self.next_s
        assert stride is not None, "nothing is under way"
        assert now_s is not None, "nothing is under way"
        self._pool.take(self._shown[-1].blocks_after_first(stride.steps))
        self._step += stride.steps
        self._counters.looked_up(stride.admitted)
        events: list[FirstToken | Finished] = []
        for each in stride.first_tokens:
            if each.length == each.request.prompt_tokens:
                events.append(FirstToken(each.request.number, now_s, each.cached_tokens or 0))
                self._counters.first_token(each, now_s)
                if each.request.lora is not None:
                    self._loras[each.request.lora] = self._loras.get(each.request.lora, 0) + 1
            each.length += 1
            self._decode(each)
        while self._ends and self._ends[0][0] < self._step:
            _, _, epoch, each = heapq.heappop(self._ends)
            if each.epoch == epoch:
                self._leave(each)
                events.append(Finished(each.request.number, now_s, each.preemptions))
        self._begin(now_s)
        return events

    def _begin(self, now_s: float) -> None:
        """Schedule the next step, and all after it that will be like it."""
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
            partial.blank += blocks
            step.compute(partial, chunk)
            self._computed(partial, chunk)
            budget -= chunk
        if fits:
            self._admit(budget, step)
        stride = self._plan(now_s, step, alike=fits)
        self.next_s = None if stride is None else now_s + stride.duration_s(stride.steps)
        self._shown.append(self._show(now_s, stride, before))
        while self._shown[1].since_s < now_s - self._history_s:
            self._shown.popleft()

    def _state(self) -> EngineState:
        """What the metrics show when a step has ended and the next one has not begun."""
        return EngineState(
            running=len(self._running),
            waiting=len(self._deferred) + len(self._waiting),
            kv_cache_usage=1.0 - self._pool.free / self._pool.usable,
            loras=frozenset(self._loras),
            counters=self._counters.progress(),
        )

    def _show(self, since_s: float, stride: Stride | None, before: EngineState) -> Shown:
        """What they show from now on."""
        needs: list[int] = []
        if stride is not None and stride.steps > 1:
            first = -self._step % self.config.block_size
            needs = self._phases[first::-1] + self._phases[:first:-1]
        return Shown(
            since_s=since_s,
            stride=stride,
            before=before,
            running=len(self._running),
            waiting=len(self._deferred) + len(self._waiting),
            usable_blocks=self._pool.usable,
            free_blocks=self._pool.free,
            needs=needs,
        )

    def _plan(self, now_s: float, step: Step, alike: bool) -> Stride | None:
        """The stride that begins with `step`; `alike`: the steps after it may be like it."""
        if not step.decoding and not step.prefill_tokens and alike:
            return None
        cost = self.step_time
        first_s = self.slowdown * (
            cost.base_s
            + cost.per_decode_s * step.decoding
            + cost.per_prefill_token_s * step.prefill_tokens
            + cost.per_context_token_s * step.context_tokens
        )
        steps = 1
        if alike and not step.prefill_tokens and not step.first_tokens:
            ends = self._ends
            while ends[0][2] != ends[0][3].epoch:
                heapq.heappop(ends)
            steps = self._steps_with_blocks(ends[0][0] - self._step + 1)
        growth_s = self.slowdown * cost.per_context_token_s * self._decoding
        return Stride(now_s, first_s, growth_s, steps, step.first_tokens, step.admitted)

    def _steps_with_blocks(self, wanted: int) -> int:
        """How many steps, at most `wanted`, have blocks when the first has got its own."""
        size, free = self.config.block_size, self._pool.free
        if (wanted // size + 1) * self._decoding <= free:
            return wanted
        steps = 1 + free // self._decoding * size
        free %= self._decoding
        while steps < wanted and (needed := self._phases[-(self._step + steps) % size]) <= free:
            free -= needed
            steps += 1
        return min(steps, wanted)

    def _blocks_needed(self, sequence: Sequence | None, count: int) -> int:
        """Blocks that a sequence lacks to compute `count` tokens more."""
        if sequence is None:
            return 0
        return -(-(sequence.computed + count) // self.config.block_size) - sequence.blocks

    def _make_room(self, chunk: int) -> None:
        """Give the decoding sequences their blocks of this step, preempting from the end of the running ones until
        there are enough, and leave enough for the `chunk` of the prefilling one."""
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
        """To the head of the queue, with nothing computed."""
        self._release(sequence)
        if sequence is self._prefilling:
            self._prefilling = None
        sequence.computed = 0
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)

    def _admit(self, budget: int, step: Step) -> None:
        """Take sequences from the head of the queue; the first that does not fit holds up all behind it, one that may
        not run for its LoRA adapter is passed over."""
        if not self._waiting and not self._deferred:
            return
        passed_over: list[Sequence] = []
        loras = {each.request.lora for each in self._running if each.request.lora is not None}
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
        """Give `sequence` its first blocks; how many tokens it computes in this step, None when it does not fit. There
        must be room for the whole of it, though only the first chunk's blocks are taken."""
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
        sequence.blank = self._blocks_needed(sequence, count)
        pool.take(sequence.blank)
        return count

    def _computed(self, sequence: Sequence, count: int) -> None:
        """`count` tokens more of `sequence` are computed in this step; the blocks that are full now can be found."""
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
            sequence.blank -= full - known

    def _decode(self, sequence: Sequence) -> None:
        """Its prompt is computed: from the coming step on it decodes."""
        sequence.offset = offset = sequence.length - self._step
        self._decoding += 1
        self._offsets += offset
        self._phases[(offset - 1) % self.config.block_size] += 1
        self._order += 1
        request = sequence.request
        last_step = request.output_tokens + request.prompt_tokens - offset - 1
        heapq.heappush(self._ends, (last_step, self._order, sequence.epoch, sequence))

    def _leave(self, sequence: Sequence) -> None:
        """It has its last token."""
        del self._running[sequence]
        self._release(sequence)
        lora = sequence.request.lora
        if lora is not None:
            self._loras[lora] -= 1
            if not self._loras[lora]:
                del self._loras[lora]

    def _release(self, sequence: Sequence) -> None:
        """Give back its blocks; the full ones stay cached."""
        offset = sequence.offset
        if offset is not None:
            self._decoding -= 1
            self._offsets -= offset
            self._phases[(offset - 1) % self.config.block_size] -= 1
            sequence.offset = None
            sequence.epoch += 1
            sequence.length = offset + self._step
            sequence.computed = sequence.length - 1
            sequence.blank = -(-sequence.computed // self.config.block_size) - sequence.hashed_blocks
            self._hash_full_blocks(sequence)
        self._pool.release(sequence.hashed, sequence.blank)
        sequence.hashed, sequence.hashed_blocks, sequence.blank = [], 0, 0
