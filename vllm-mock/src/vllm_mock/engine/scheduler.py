"""vLLM's scheduler as a pure step function: who computes how many tokens, who waits, who is preempted.

Synchronous scheduling, as recorded of vLLM 0.32: a step is scheduled when the tokens of the one before are known.
`schedule` decides a step, `complete` gives its tokens; between the two lies the time that the step takes.
"""

from collections import deque
from dataclasses import dataclass, field

from vllm_mock.engine.blocks import BlockHash, BlockPool, chain
from vllm_mock.engine.messages import EngineConfig, EngineRequest, FinishReason, NewTokens, Sampler


@dataclass(slots=True, eq=False)
class Live:
    """A request that is waiting or running."""

    request: EngineRequest
    tokens: list[int]
    """The prompt and what has been generated."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    blocks: list[int] = field(default_factory=list[int])
    hashes: list[BlockHash] = field(default_factory=list[BlockHash])
    """Of the full blocks of `tokens`, as far as they were needed."""
    findable: int = 0
    """Of `blocks`, how many are in the prefix cache."""
    admitted: bool = False
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    preemptions: int = 0

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What one step computes."""

    tokens: dict[str, int]
    """Tokens computed for each request, in the order of the running list."""
    new: dict[str, int]
    """First admissions, with the tokens found in the prefix cache."""
    resumed: dict[str, int]
    """Admissions after a preemption, the same."""
    preempted: tuple[str, ...]
    prefill_tokens: int
    """Of `tokens`, those of sequences that had more to compute than their newest token."""
    decoding: int
    """Sequences that compute their newest token alone."""
    context_tokens: int
    """Tokens already in the cache that attention reads in this step."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One request's token of a step, with what the metrics need to know of it."""

    live: Live
    tokens: NewTokens


class Scheduler:
    """Requests in, steps out. Pure: no clock, no randomness; the text is the sampler's."""

    def __init__(self, config: EngineConfig, sampler: Sampler) -> None:
        self.config = config
        self.pool = BlockPool(config.num_gpu_blocks, config.enable_prefix_caching)
        self.waiting: deque[Live] = deque()
        self.running: list[Live] = []
        self.deferred = 0
        """Waiting requests that the last step passed over for their LoRA adapter."""
        self._sampler = sampler
        self._by_id: dict[str, Live] = {}
        self._step: list[Live] = []

    def add(self, request: EngineRequest) -> Live:
        """Queue a request."""
        live = self._by_id[request.request_id] = Live(request, list(request.prompt))
        self.waiting.append(live)
        return live

    def get(self, request_id: str) -> Live | None:
        """The request while it is waiting or running."""
        return self._by_id.get(request_id)

    def remove(self, request_id: str) -> Live | None:
        """A request is over, wherever it is; its blocks are free. None when there is no such request."""
        live = self._by_id.pop(request_id, None)
        if live is None:
            return None
        if live.blocks:
            self.running.remove(live)
            self.pool.release(live.blocks)
        else:
            self.waiting.remove(live)
        return live

    def schedule(self) -> Schedule | None:
        """Decide one step; None when there is nothing to compute."""
        budget = self.config.max_num_batched_tokens
        tokens: dict[str, int] = {}
        new: dict[str, int] = {}
        resumed: dict[str, int] = {}
        preempted: list[Live] = []
        index = 0
        while index < len(self.running) and budget:
            live = self.running[index]
            count = min(len(live.tokens) - live.computed, budget)
            if not self._has_blocks_for(live, live.computed + count, preempted):
                break
            tokens[live.request.request_id] = count
            budget -= count
            index += 1
        self.deferred = 0
        if not preempted:
            self._admit(budget, tokens, new, resumed)
        if not tokens and not preempted:
            return None
        return self._begin(tokens, new, resumed, preempted)

    def complete(self) -> list[Generated]:
        """The tokens of the step that was scheduled last; requests that end with theirs have left."""
        given: list[Generated] = []
        for live in self._step:
            if live.computed < len(live.tokens) or live.request.request_id not in self._by_id:
                continue
            token = self._sampler.token(live.request, live.generated)
            live.tokens.append(token)
            reason = self._finish_reason(live, token)
            stop_token = token if reason is FinishReason.STOP else None
            new = NewTokens(live.request.request_id, (token,), reason, stop_token, live.cached_tokens)
            given.append(Generated(live, new))
            if reason is not None:
                self.remove(live.request.request_id)
        self._step = []
        return given

    def _finish_reason(self, live: Live, token: int) -> FinishReason | None:
        request, generated = live.request, live.generated
        if generated >= request.min_tokens and token in request.stop_token_ids:
            return FinishReason.STOP
        if generated >= request.max_tokens or len(live.tokens) >= self.config.max_model_len:
            return FinishReason.LENGTH
        return None

    def _has_blocks_for(self, live: Live, length: int, preempted: list[Live]) -> bool:
        """Give `live` the blocks for its first `length` tokens, preempting from the end of the running list until there
        are enough. False when it was preempted itself."""
        needed = -(-length // self.config.block_size) - len(live.blocks)
        if needed <= 0:
            return True
        while self.pool.free < needed:
            last = self.running.pop()
            self._preempt(last)
            preempted.append(last)
            if last is live:
                return False
        live.blocks += self.pool.take(needed)
        return True

    def _preempt(self, live: Live) -> None:
        """To the head of the queue, with nothing computed."""
        self.pool.release(live.blocks)
        live.blocks = []
        live.computed = live.findable = 0
        live.preemptions += 1
        self.waiting.appendleft(live)

    def _admit(self, budget: int, tokens: dict[str, int], new: dict[str, int], resumed: dict[str, int]) -> None:
        """Take requests from the head of the queue; the first that does not fit holds up all behind it, one that may
        not run for its LoRA adapter is passed over."""
        passed_over: list[Live] = []
        loras = {live.request.lora for live in self.running if live.request.lora is not None}
        while self.waiting and budget and len(self.running) < self.config.max_num_seqs:
            live = self.waiting[0]
            lora = live.request.lora
            if lora is not None and lora not in loras and len(loras) >= self.config.max_loras:
                passed_over.append(self.waiting.popleft())
                continue
            count = self._admitted_tokens(live, budget)
            if count is None:
                break
            self.waiting.popleft()
            self.running.append(live)
            if lora is not None:
                loras.add(lora)
            (resumed if live.admitted else new)[live.request.request_id] = live.computed
            if not live.admitted:
                live.admitted, live.cached_tokens = True, live.computed
            tokens[live.request.request_id] = count
            budget -= count
            self._make_findable(live, live.computed + count)
        self.deferred = len(passed_over)
        self.waiting.extendleft(reversed(passed_over))

    def _admitted_tokens(self, live: Live, budget: int) -> int | None:
        """Give `live` its first blocks and return how many tokens it computes in this step; None when it does not fit.
        There must be room for the whole sequence, though only the first chunk's blocks are taken."""
        size = self.config.block_size
        length = len(live.tokens)
        cached = [] if live.request.prompt_logprobs else self.pool.find(self._hashes(live, (length - 1) // size))
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
        for index in range(len(hashes), count):
            parent = hashes[-1] if hashes else hash((live.request.lora, live.request.cache_salt))
            hashes.append(chain(parent, tokens[index * size : (index + 1) * size]))
        return hashes[:count]

    def _make_findable(self, live: Live, length: int) -> None:
        """Blocks that this step fills can be hit by requests admitted after it in the same step."""
        full = length // self.config.block_size
        if full > live.findable and self.config.enable_prefix_caching:
            hashes = self._hashes(live, full)
            for index in range(live.findable, full):
                self.pool.cache(live.blocks[index], hashes[index])
            live.findable = full

    def _begin(
        self, tokens: dict[str, int], new: dict[str, int], resumed: dict[str, int], preempted: list[Live]
    ) -> Schedule:
        """Compute what was decided, and count what it costs."""
        prefill = decoding = context = 0
        self._step = []
        for live in self.running:
            count = tokens.get(live.request.request_id)
            if count is None:
                continue
            context += live.computed
            if len(live.tokens) - live.computed > 1:
                prefill += count
            else:
                decoding += 1
            live.computed += count
            self._make_findable(live, live.computed)
            self._step.append(live)
        return Schedule(
            tokens, new, resumed, tuple(each.request.request_id for each in preempted), prefill, decoding, context
        )
