"""vLLM's scheduler as a pure step function: who computes how many tokens, who waits, who is preempted.

Synchronous scheduling, as recorded of vLLM 0.32: a step is scheduled when the tokens of the one before are known.
`schedule` decides a step, `complete` gives its tokens; between the two lies the time that the step takes.
"""

from collections import deque

from vllm_mock.engine.blocks import BlockHash, BlockListener, BlockPool, chain, root
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, Sampler
from vllm_mock.engine.sequence_state import Live, Schedule


class Scheduler:
    """Requests in, steps out. Pure: no clock, no randomness; the text is the sampler's."""

    def __init__(self, config: EngineConfig, sampler: Sampler, listener: BlockListener | None = None) -> None:
        self.config = config
        self.pool = BlockPool(config.num_gpu_blocks, config.enable_prefix_caching, listener)
        self.running: list[Live] = []
        self.queued: deque[Live] = deque()
        self.deferred: deque[Live] = deque()
        """Passed over for their LoRA adapter; they come before the others of the queue."""
        self._sampler = sampler
        self._listener = listener
        self._by_id: dict[str, Live] = {}
        self._computing: list[Live] = []
        """The requests of the step that `complete` will end."""

    @property
    def waiting(self) -> list[Live]:
        """Requests that wait, in the order in which a step looks at them."""
        return [*self.deferred, *self.queued]

    def add(self, request: EngineRequest) -> Live:
        """Queue a request."""
        live = self._by_id[request.request_id] = Live(request, self.config.max_model_len)
        self.queued.append(live)
        return live

    def get(self, request_id: str) -> Live | None:
        """The request while it is waiting or running."""
        return self._by_id.get(request_id)

    def remove(self, request_id: str) -> Live | None:
        """A request is over, wherever it is; its blocks are free. None when there is no such request."""
        live = self._by_id.pop(request_id, None)
        if live is None:
            return None
        live.gone = True
        if live.blocks:
            self.running.remove(live)
            self.pool.release(live.blocks)
            live.blocks = []
        elif live in self.queued:
            self.queued.remove(live)
        else:
            self.deferred.remove(live)
        return live

    def schedule(self) -> Schedule | None:
        """Decide one step; None when there is nothing to compute."""
        step = Schedule(self.config.max_num_batched_tokens)
        size, running = self.config.block_size, self.running
        index = 0
        while index < len(running) and step.budget:
            live = running[index]
            count = min(len(live.tokens) - live.computed, step.budget)
            if live.computed + count > len(live.blocks) * size and not self._take_blocks(live, count, step):
                break
            self._compute(live, count, step)
            index += 1
        if not step.preempted:
            self._admit(step)
        self._computing = step.scheduled
        return step if step.scheduled or step.preempted else None

    def complete(self) -> tuple[list[Live], int]:
        """End the step that was scheduled last: the requests that got a token, with it as the last of their tokens
        (those that end with it have left and carry a `finish_reason`), and how many would have got one had they not
        been removed since."""
        given: list[Live] = []
        lost = 0
        draw = self._sampler.token
        for live in self._computing:
            tokens = live.tokens
            if live.computed < len(tokens):
                continue
            if live.gone:
                lost += 1
                continue
            position = len(tokens) - live.prompt_tokens
            token = draw(live.request, position)
            tokens.append(token)
            live.decodes = True
            given.append(live)
            if live.stops and token in live.stops and position + 1 >= live.request.min_tokens:
                self._finish(live, FinishReason.STOP)
            elif position + 1 >= live.limit:
                self._finish(live, FinishReason.LENGTH)
        self._computing = []
        return given, lost

    def steady_steps(self, most: int) -> int:
        """How many of the next `most` steps surely do nothing but give each running request a token: nobody is
        admitted, preempted or at its end. 0 when that cannot be told at once."""
        running, size = self.running, self.config.block_size
        if not running or len(running) > self.config.max_num_batched_tokens:
            return 0
        if len(running) < self.config.max_num_seqs and (self.queued or self.deferred):
            return 0
        for live in running:
            if live.stops or not live.decodes:
                return 0
            most = min(most, live.limit - len(live.tokens) + live.prompt_tokens - 1)
        while most > 0:
            needed = sum(max(0, -(-(live.computed + most) // size) - len(live.blocks)) for live in running)
            if needed <= self.pool.free:
                break
            most //= 2
        return most

    def decode(self, steps: int) -> None:
        """Take as many steps as `steady_steps` allowed at once. Blocks change hands in the order in which they would
        have one step at a time."""
        size, draw = self.config.block_size, self._sampler.token
        events: list[tuple[int, int, bool]] = []
        for index, live in enumerate(self.running):
            computed, request = live.computed, live.request
            position = len(live.tokens) - live.prompt_tokens
            live.tokens.extend([draw(request, each) for each in range(position, position + steps)])
            live.computed = computed + steps
            events += [(step, index, False) for step in range(len(live.blocks) * size - computed + 1, steps + 1, size)]
            if self.config.enable_prefix_caching:
                first = (live.findable + 1) * size - computed
                events += [(step, index, True) for step in range(first, steps + 1, size)]
        events.sort()
        for _, index, fills in events:
            live = self.running[index]
            if fills:
                self._make_findable(live, (live.findable + 1) * size)
            else:
                live.blocks += self.pool.take(1)

    def _finish(self, live: Live, reason: FinishReason) -> None:
        live.finish_reason = reason
        self.remove(live.request_id)

    def _compute(self, live: Live, count: int, step: Schedule) -> None:
        """`live` computes `count` tokens in this step. Blocks that it fills can be hit by requests admitted after it in
        the same step."""
        computed = live.computed
        step.scheduled.append(live)
        step.counts.append(count)
        step.budget -= count
        step.context_tokens += computed
        if len(live.tokens) - computed > 1:
            step.prefill_tokens += count
        else:
            step.decoding += 1
        live.computed = computed = computed + count
        if computed >= (live.findable + 1) * self.config.block_size and self.config.enable_prefix_caching:
            self._make_findable(live, computed)

    def _take_blocks(self, live: Live, count: int, step: Schedule) -> bool:
        """Give `live` the blocks for `count` tokens more, preempting from the end of the running list until there are
        enough. False when it was preempted itself."""
        needed = -(-(live.computed + count) // self.config.block_size) - len(live.blocks)
        while self.pool.free < needed:
            last = self.running.pop()
            self._preempt(last)
            step.preempted.append(last)
            if last is live:
                return False
        live.blocks += self.pool.take(needed)
        return True

    def _preempt(self, live: Live) -> None:
        """To the head of the queue, with nothing computed."""
        self.pool.release(live.blocks)
        live.blocks = []
        live.computed = live.findable = 0
        live.decodes = False
        live.preemptions += 1
        self.queued.appendleft(live)

    def _admit(self, step: Schedule) -> None:
        """Take requests from the head of the queue; the first that does not fit holds up all behind it, one that may
        not run for its LoRA adapter is passed over."""
        passed_over: deque[Live] = deque()
        loras = {live.lora for live in self.running if live.lora is not None}
        while step.budget and len(self.running) < self.config.max_num_seqs:
            queue = self.deferred or self.queued
            if not queue:
                break
            live = queue[0]
            if live.lora is not None and live.lora not in loras and len(loras) >= self.config.max_loras:
                passed_over.append(queue.popleft())
                continue
            count = self._first_tokens(live, step.budget)
            if count is None:
                break
            queue.popleft()
            self.running.append(live)
            if live.lora is not None:
                loras.add(live.lora)
            if live.admitted:
                step.resumed.append(live)
            else:
                live.admitted, live.cached_tokens = True, live.computed
                step.new.append(live)
            live.hit_tokens = live.computed
            self._compute(live, count, step)
        self.deferred.extendleft(reversed(passed_over))

    def _first_tokens(self, live: Live, budget: int) -> int | None:
        """Give `live` its first blocks and return how many tokens it computes in this step; None when it does not fit.
        There must be room for the whole sequence, though only the first chunk's blocks are taken."""
        size = self.config.block_size
        length = len(live.tokens)
        cached: list[int] = []
        if self.config.enable_prefix_caching and not live.request.prompt_logprobs:
            cached = self.pool.find(self._hashes(live, (length - 1) // size))
        count = length - len(cached) * size
        if count > budget:
            if not self.config.enable_chunked_prefill:
                return None
            count = budget
        if -(-length // size) - len(cached) + self.pool.free_among(cached) > self.pool.free:
            return None
        self.pool.hold(cached)
        live.computed = len(cached) * size
        live.findable = len(cached)
        live.blocks = cached + self.pool.take(-(-(live.computed + count) // size) - len(cached))
        return count

    def _hashes(self, live: Live, count: int) -> list[BlockHash]:
        """Hashes of the first `count` blocks of a sequence, which must be full."""
        size, hashes, tokens = self.config.block_size, live.hashes, live.tokens
        if len(hashes) < count:
            parent = hashes[-1] if hashes else root(live.lora, live.request.cache_salt)
            for start in range(len(hashes) * size, count * size, size):
                parent = chain(parent, tokens[start : start + size])
                hashes.append(parent)
        return hashes if len(hashes) == count else hashes[:count]

    def _make_findable(self, live: Live, length: int) -> None:
        """The full blocks of the first `length` tokens enter the prefix cache."""
        size = self.config.block_size
        start, full = live.findable, length // size
        hashes = self._hashes(live, full)
        for index in range(start, full):
            self.pool.cache(live.blocks[index], hashes[index])
        live.findable = full
        if self._listener is not None:
            parent = hashes[start - 1] if start else None
            tokens = live.tokens[start * size : full * size]
            self._listener.stored(parent, hashes[start:], tokens, live.lora, live.request.cache_salt)
