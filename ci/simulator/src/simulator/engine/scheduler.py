"""vLLM's scheduler, for many decode steps at once.

`vllm_mock.engine.scheduler` explains the rules. Here, the blocks that a sequence fills by decoding enter the prefix
cache when it is released. So no request may arrive whose prompt contains the output of a running one.
"""

import heapq
from collections import deque

from vllm_mock.engine.messages import EngineConfig

from simulator.engine.blocks import BlockPool
from simulator.engine.sequence import Sequence
from simulator.engine.steps import Step


class Scheduler:
    """Decides steps. `schedule` decides the next one, and `complete` ends it together with steps that are like it."""

    def __init__(self, config: EngineConfig) -> None:
        """Raises ValueError for settings under which decoding sequences could exceed the token budget."""
        if config.max_num_batched_tokens <= config.max_num_seqs or not config.enable_chunked_prefill:
            raise ValueError("max_num_batched_tokens must exceed max_num_seqs, and prefill must be chunked")
        self.config = config
        self.pool = BlockPool(config.num_gpu_blocks)
        self.queued: deque[Sequence] = deque()
        self.deferred: deque[Sequence] = deque()
        """Sequences passed over because of their LoRA adapter. They come before those of `queued`."""
        self.running: dict[Sequence, None] = {}
        """The keys are the running sequences, in order of admission."""
        self.prefilling: Sequence | None = None
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

    @property
    def waiting(self) -> int:
        """Number of waiting sequences."""
        return len(self.deferred) + len(self.queued)

    def length(self, sequence: Sequence) -> int:
        """Return the number of tokens of a sequence, its prompt included."""
        return sequence.length if sequence.offset is None else sequence.offset + self._step

    def schedule(self) -> Step:
        """Decide one step."""
        partial = self.prefilling
        budget = self.config.max_num_batched_tokens - self._decoding
        chunk = min(partial.length - partial.computed, budget) if partial is not None else 0
        needed = self._phases[-self._step % self.config.block_size]
        fits = needed + self._blocks_needed(partial, chunk) <= self.pool.free
        if fits:
            self.pool.take(needed)
        else:
            self._make_room(chunk)
            partial = self.prefilling
        step = Step(self._decoding, self._offsets + self._decoding * (self._step - 1), preempts=not fits)
        if partial is not None:
            blocks = self._blocks_needed(partial, chunk)
            self.pool.take(blocks)
            partial.unhashed_blocks += blocks
            step.compute(partial, chunk)
            self._computed(partial, chunk)
            budget -= chunk
        if fits:
            self._admit(budget, step)
        return step

    def steps_like(self, step: Step) -> int:
        """Return how many steps, `step` included, do the same: each decodes the same sequences and nothing else."""
        if step.preempts or step.chunks:
            return 1
        ends = self._ends
        while ends[0][2] != ends[0][3].epoch:
            heapq.heappop(ends)
        return self._steps_with_blocks(ends[0][0] - self._step + 1)

    def blocks_per_step(self) -> list[int]:
        """Return how many blocks the decoding sequences need in the next steps, for one period: `block_size` steps."""
        first = -self._step % self.config.block_size
        return self._phases[first::-1] + self._phases[:first:-1]

    def complete(self, step: Step, steps: int, blocks: int) -> tuple[list[Sequence], list[Sequence]]:
        """End `step` and those after it that are like it: `steps` steps, of which the later ones take `blocks` blocks.

        Returns the sequences whose prefill ends, and those that get their last token and are removed.
        """
        self.pool.take(blocks)
        self._step += steps
        prefilled = [sequence for sequence, _ in step.chunks if sequence.computed == sequence.length]
        for sequence in prefilled:
            sequence.length += 1
            self._decode(sequence)
        ended: list[Sequence] = []
        while self._ends and self._ends[0][0] < self._step:
            _, _, epoch, sequence = heapq.heappop(self._ends)
            if sequence.epoch == epoch:
                del self.running[sequence]
                self._release(sequence)
                ended.append(sequence)
        return prefilled, ended

    def _steps_with_blocks(self, limit: int) -> int:
        """Return how many steps, at most `limit`, have enough blocks. The first one has been allocated its blocks."""
        size, free = self.config.block_size, self.pool.free
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
        for sequence in list(self.running):
            if sequence not in self.running:
                return
            if sequence.offset is None:
                blocks = self._blocks_needed(sequence, chunk)
            else:
                blocks = int((sequence.offset - 1) % self.config.block_size == needing)
            while self.pool.free < blocks:
                last, _ = self.running.popitem()
                self._preempt(last)
                if last is sequence:
                    return
            if sequence.offset is not None:
                self.pool.take(blocks)

    def _preempt(self, sequence: Sequence) -> None:
        """Move `sequence` to the head of the queue, with nothing computed."""
        self._release(sequence)
        if sequence is self.prefilling:
            self.prefilling = None
        sequence.computed = 0
        sequence.preemptions += 1
        self.queued.appendleft(sequence)

    def _admit(self, budget: int, step: Step) -> None:
        """Admit sequences from the head of the queue.

        The first that does not fit blocks all behind it. A sequence over the limit of LoRA adapters is passed over.
        """
        if not self.queued and not self.deferred:
            return
        passed_over: list[Sequence] = []
        loras = {sequence.request.lora for sequence in self.running if sequence.request.lora is not None}
        while budget and len(self.running) < self.config.max_num_seqs:
            queue = self.deferred or self.queued
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
            self.running[sequence] = None
            if lora is not None:
                loras.add(lora)
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
                step.admitted.append(sequence)
            step.compute(sequence, count)
            self._computed(sequence, count)
            budget -= count
        self.deferred.extendleft(reversed(passed_over))

    def _fitting_tokens(self, sequence: Sequence, budget: int) -> int | None:
        """Allocate the first blocks of `sequence` and return how many tokens it computes in this step.

        None means that it does not fit. There must be enough free blocks for the whole sequence, though only those of
        the first chunk are allocated.
        """
        size, pool, length = self.config.block_size, self.pool, sequence.length
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
            self.prefilling = sequence
        elif self.prefilling is sequence:
            self.prefilling = None

    def _hash_full_blocks(self, sequence: Sequence) -> None:
        size, known = self.config.block_size, sequence.hashed_blocks
        full = sequence.computed // size
        if full > known and self.config.enable_prefix_caching:
            sequence.hashed += self.pool.cache(sequence.request.content.spans(known, full, size))
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
        self.pool.release(sequence.hashed, sequence.unhashed_blocks)
        sequence.hashed, sequence.hashed_blocks, sequence.unhashed_blocks = [], 0, 0
