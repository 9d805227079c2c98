"""vLLM's scheduler as a pure step function: which requests compute how many tokens, wait, or are preempted.

Scheduling is synchronous, as recorded of vLLM 0.32: a step is scheduled when the tokens of the previous one are known.
`schedule` decides a step and `complete` generates its tokens. The time that the step takes passes between the two.
"""

from collections import deque

from vllm_mock.engine.blocks import BlockHash, BlockListener, BlockPool, chain, root
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, Sampler
from vllm_mock.engine.sequence_state import Schedule, SequenceState


class Scheduler:
    """Decides steps. Pure: no clock and no randomness; the sampler chooses the tokens."""

    def __init__(self, config: EngineConfig, sampler: Sampler, listener: BlockListener | None = None) -> None:
        self.config = config
        self.pool = BlockPool(config.num_gpu_blocks, config.enable_prefix_caching, listener)
        self.running: list[SequenceState] = []
        self.queued: deque[SequenceState] = deque()
        self.deferred: deque[SequenceState] = deque()
        """Requests passed over because of their LoRA adapter. They come before those of `queued`."""
        self._sampler = sampler
        self._listener = listener
        self._by_id: dict[str, SequenceState] = {}
        self._computing: list[SequenceState] = []
        """The requests of the current step."""

    @property
    def waiting(self) -> list[SequenceState]:
        """Waiting requests, in the order of admission."""
        return [*self.deferred, *self.queued]

    def add(self, request: EngineRequest) -> SequenceState:
        """Queue a request."""
        live = self._by_id[request.request_id] = SequenceState(request, self.config.max_model_len)
        self.queued.append(live)
        return live

    def get(self, request_id: str) -> SequenceState | None:
        """Return a request that is waiting or running, else None."""
        return self._by_id.get(request_id)

    def remove(self, request_id: str) -> SequenceState | None:
        """Remove a request that is waiting or running and free its blocks. None if there is no such request."""
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
        """Decide one step. None means that there is nothing to compute."""
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

    def complete(self) -> tuple[list[SequenceState], int]:
        """End the current step.

        Returns the requests that got a token, as the last of their `tokens`, and how many got none because they were
        removed during the step. Requests that end with their token have a `finish_reason` and are removed.
        """
        given: list[SequenceState] = []
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
            given.append(live)
            if live.stops and token in live.stops and position + 1 >= live.request.min_tokens:
                self._finish(live, FinishReason.STOP)
            elif position + 1 >= live.limit:
                self._finish(live, FinishReason.LENGTH)
        self._computing = []
        return given, lost

    def _finish(self, live: SequenceState, reason: FinishReason) -> None:
        live.finish_reason = reason
        self.remove(live.request_id)

    def _compute(self, live: SequenceState, count: int, step: Schedule) -> None:
        """Let `live` compute `count` tokens in this step.

        Requests admitted later in the same step can hit the blocks that it fills.
        """
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

    def _take_blocks(self, live: SequenceState, count: int, step: Schedule) -> bool:
        """Allocate the blocks for `count` more tokens of `live`.

        Preempts from the end of the running list until there are enough. Returns False if that preempted `live`.
        """
        needed = -(-(live.computed + count) // self.config.block_size) - len(live.blocks)
        while self.pool.free < needed:
            last = self.running.pop()
            self._preempt(last)
            step.preempted.append(last)
            if last is live:
                return False
        live.blocks += self.pool.take(needed)
        return True

    def _preempt(self, live: SequenceState) -> None:
        """Move `live` to the head of the queue, with nothing computed."""
        self.pool.release(live.blocks)
        live.blocks = []
        live.computed = live.findable = 0
        live.preemptions += 1
        self.queued.appendleft(live)

    def _admit(self, step: Schedule) -> None:
        """Admit requests from the head of the queue.

        The first that does not fit blocks all behind it. A request over the limit of LoRA adapters is passed over.
        """
        passed_over: deque[SequenceState] = deque()
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

    def _first_tokens(self, live: SequenceState, budget: int) -> int | None:
        """Allocate the first blocks of `live` and return how many tokens it computes in this step.

        None means that it does not fit. There must be enough free blocks for the whole sequence, though only those of
        the first chunk are allocated.
        """
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

    def _hashes(self, live: SequenceState, count: int) -> list[BlockHash]:
        """Return the hashes of the first `count` blocks of a sequence, which must be full."""
        size, hashes, tokens = self.config.block_size, live.hashes, live.tokens
        if len(hashes) < count:
            parent = hashes[-1] if hashes else root(live.lora, live.request.cache_salt)
            for start in range(len(hashes) * size, count * size, size):
                parent = chain(parent, tokens[start : start + size])
                hashes.append(parent)
        return hashes if len(hashes) == count else hashes[:count]

    def _make_findable(self, live: SequenceState, length: int) -> None:
        """Add the full blocks of the first `length` tokens to the prefix cache."""
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
