"""Runs the sequences of one request and turns their tokens into text, choice by choice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from vllm_mock.engine.messages import FinishReason, NewTokens
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.replica import PreparedRequest, Replica
from vllm_mock.generation.request_body import Body
from vllm_mock.tokens.text import GrowingText

_TURNS_TO_WAKE = 8
"""Turns of the event loop within which an idle engine starts on a request, with a margin. Judgement."""


@dataclass(frozen=True, slots=True)
class Progress:
    """New tokens of one choice from one step."""

    choice: int
    text: str
    """Text that is ready to be sent and has not been sent."""
    token: int
    generated: int
    """Tokens of this choice so far."""
    finish_reason: str | None
    stop_reason: int | str | None


@dataclass(slots=True)
class Choice:
    """One sequence and the text generated so far."""

    text: GrowingText
    tokens: list[int]
    pieces: list[str]
    """The text that each token added."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    cached_tokens: int = 0


class Generation:
    """The running completion of one request.

    Call `start`, then await either `steps` or `finished`, and call `close` in any case.
    """

    def __init__(self, replica: Replica, prepared: PreparedRequest, body: Body) -> None:
        self.prepared = prepared
        self._replica = replica
        self._include_stop = body.include_stop_str_in_output
        self.choices = [
            Choice(GrowingText(replica.tokenizer, body.stops, self._include_stop, body.min_tokens), [], [])
            for _ in prepared.sequences
        ]
        self._running = {sequence.request_id: index for index, sequence in enumerate(prepared.sequences)}
        self._steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streaming = bool(body.stream)
        self._failure: ApiError | None = None

    @property
    def generated(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)

    async def start(self) -> None:
        """Submits the sequences.

        An idle engine begins a step with the first sequence before the others arrive. Recorded: three prompts of
        6 tokens take 7 steps.
        """
        first, *others = self.prepared.sequences
        self._replica.engine.submit(first, self._on_tokens)
        turns = _TURNS_TO_WAKE if others else 0
        while turns and not self._replica.engine.engine.scheduler.running:
            await asyncio.sleep(0)
            turns -= 1
        for sequence in others:
            if sequence.request_id in self._running:
                self._replica.engine.submit(sequence, self._on_tokens)

    async def steps(self) -> AsyncIterator[Progress]:
        """Yields every token as it is generated. Raises ApiError if the engine fails. Ends early after `close`."""
        while (progress := await self._steps.get()) is not None:
            yield progress
        if self._failure is not None:
            raise self._failure

    async def finished(self) -> None:
        """Waits until every choice has ended, or for `close`. Raises ApiError if the engine fails."""
        await self._finished
        if self._failure is not None:
            raise self._failure

    def fail(self, failure: ApiError) -> None:
        """Ends the completion with an error for the client."""
        self._failure = failure
        self.close()

    def abort_in_engine(self) -> None:
        """Aborts from within the engine. Unlike a client's disconnect, this counts as finished."""
        for request_id, index in list(self._running.items()):
            choice = self.choices[index]
            choice.finish_reason = FinishReason.ABORT.value
            self._replica.engine.finish(request_id, FinishReason.ABORT)
            if self._streaming:
                text = choice.text.take(finished=True)
                generated = len(choice.tokens)
                self._steps.put_nowait(Progress(index, text, 0, generated, choice.finish_reason, None))
            self._over(request_id)

    def close(self) -> None:
        """Aborts the sequences that still run. Tokens generated so far stay counted."""
        for request_id in list(self._running):
            self._replica.engine.abort(request_id)
            self._over(request_id)

    def _over(self, request_id: str) -> None:
        self._replica.forced_outputs.discard(request_id)
        del self._running[request_id]
        if not self._running:
            self._steps.put_nowait(None)
            if not self._finished.done():
                self._finished.set_result(None)

    def _on_tokens(self, new: NewTokens) -> None:
        index = self._running[new.request_id]
        choice = self.choices[index]
        for token in new.token_ids:
            self._add(choice, new, token)
        if choice.finish_reason is not None and choice.text.stopped_by is not None:
            self._replica.engine.finish(new.request_id, FinishReason.STOP)
        if self._streaming:
            text = choice.text.take(choice.finish_reason is not None)
            token = new.token_ids[-1]
            progress = Progress(index, text, token, len(choice.tokens), choice.finish_reason, choice.stop_reason)
            self._steps.put_nowait(progress)
        if choice.finish_reason is not None:
            self._over(new.request_id)

    def _add(self, choice: Choice, new: NewTokens, token: int) -> None:
        if not choice.tokens:
            choice.cached_tokens = new.cached_tokens
        choice.tokens.append(token)
        if new.finish_reason is FinishReason.STOP and not self._include_stop:
            # The token that ended the sequence is not part of its text.
            choice.text.skip()
            choice.pieces.append("")
        else:
            choice.pieces.append(choice.text.add(token))
        if choice.text.stopped_by is not None:
            choice.finish_reason = FinishReason.STOP.value
            choice.stop_reason = choice.text.stopped_by
        elif new.finish_reason is not None:
            choice.finish_reason = new.finish_reason.value
            if new.finish_reason is FinishReason.STOP and token != self._replica.tokenizer.end_of_sequence:
                choice.stop_reason = token
