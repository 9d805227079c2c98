"""Mutation tests of the API server: with each mutation the recorded exchange must differ, and without it must not."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from recordings import FOLDER
from starlette.responses import JSONResponse
from vllm_mock.api import chat, completion_routes, completions, http_metrics, usage
from vllm_mock.api.middleware import ApiKeys, RequestIds
from vllm_mock.api.responses import event
from vllm_mock.api.schemas import Usage
from vllm_mock.engine.messages import FinishReason
from vllm_mock.generation import validation
from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.loras import Loras
from vllm_mock.generation.replica import PreparedRequest, Replica
from vllm_mock.tokens.text import GrowingText
from vllm_mock.verify.http import verify_http
from vllm_mock.verify.http_counts import verify_http_counts

Patch = pytest.MonkeyPatch


def nothing_held_back(patch: Patch) -> None:
    patch.setattr(GrowingText, "take", lambda self, finished: _take_all(self))


def _take_all(text: Any) -> str:
    taken, text._shown = text.text[text._shown :], len(text.text)
    return taken


def stop_string_shown(patch: Patch) -> None:
    look = GrowingText._look_for_stops

    def include_stop(self: Any, before: int) -> None:
        self._include_stop = True
        look(self, before)

    patch.setattr(GrowingText, "_look_for_stops", include_stop)


def no_role_first(patch: Patch) -> None:
    patch.setattr(chat, "_first_chunks", lambda body, generation: [])


def an_empty_chunk_ends_the_stream(patch: Patch) -> None:
    chunks = completions.chunks

    async def one_more(*arguments: Any) -> AsyncIterator[bytes]:
        last = b""
        async for data in chunks(*arguments):
            if data == b"data: [DONE]\n\n":
                yield last
            last = data
            yield data

    patch.setattr(completions, "chunks", one_more)


def prompts_counted_for_every_sample(patch: Patch) -> None:
    def count(self: PreparedRequest) -> int:
        return sum(len(sequence.prompt) for sequence in self.sequences)

    patch.setattr(PreparedRequest, "prompt_tokens", property(count))


def max_tokens_not_cut(patch: Patch) -> None:
    def reject(self: Replica, prompt: Any, max_tokens: int | None) -> int:
        remaining = self.max_model_len - len(prompt.tokens)
        if max_tokens is not None and max_tokens > remaining:
            raise ApiError.value("too long", "max_tokens", max_tokens)
        return remaining if max_tokens is None else max_tokens

    patch.setattr(Replica, "_max_tokens", reject)


def unprocessable(patch: Patch) -> None:
    invalid = validation._invalid

    def with_422(errors: Any) -> ApiError:
        error = invalid(errors)
        return ApiError(422, error.message, error.param, error.kind)

    patch.setattr(validation, "_invalid", with_422)


def keys_for_every_path(patch: Patch) -> None:
    call = ApiKeys.__call__

    async def require_key(self: ApiKeys, scope: Any, receive: Any, send: Any) -> None:
        await call(self, {**scope, "path": "/v1/any"}, receive, send)

    patch.setattr(ApiKeys, "__call__", require_key)


def request_ids_are_always_generated(patch: Patch) -> None:
    call = RequestIds.__call__

    async def without_id(self: RequestIds, scope: Any, receive: Any, send: Any) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        await call(self, {**scope, "headers": kept}, receive, send)

    patch.setattr(RequestIds, "__call__", without_id)


def cached_tokens_of_one_block_more(patch: Patch) -> None:
    original = usage.usage

    def mutated(replica: Replica, generation: Any) -> Usage:
        correct = original(replica, generation)
        details = correct.prompt_tokens_details
        assert details is not None
        return msgspec.structs.replace(
            correct, prompt_tokens_details=msgspec.structs.replace(details, cached_tokens=details.cached_tokens + 32)
        )

    patch.setattr(completions, "usage", mutated)


def one_more_in_the_queue(patch: Patch) -> None:
    admit = Replica.admit

    def late(self: Replica) -> None:
        limit = self.options.max_queued_requests
        if limit is None or self.engine.engine.live_requests > limit:
            admit(self)

    patch.setattr(Replica, "admit", late)


def nulls_left_out(patch: Patch) -> None:
    patch.setattr(
        completion_routes,
        "json_response",
        lambda body: JSONResponse(
            {name: value for name, value in msgspec.to_builtins(body).items() if value is not None}
        ),
    )


def adapters_loaded_twice(patch: Patch) -> None:
    load = Loras.load

    def again(self: Loras, body: Any) -> None:
        load(self, body.model_copy(update={"load_inplace": True}))

    patch.setattr(Loras, "load", again)


def compact_json_is_spaced(patch: Patch) -> None:
    patch.setattr(completions, "event", lambda body: event(body).replace(b'":', b'": ', 1))


def stop_tokens_without_their_id(patch: Patch) -> None:
    add = Generation._add

    def anonymous(self: Generation, choice: Any, new: Any, token: int) -> None:
        add(self, choice, new, token)
        if new.finish_reason is FinishReason.STOP:
            choice.stop_reason = None

    patch.setattr(Generation, "_add", anonymous)


MUTATIONS: list[tuple[Callable[[Patch], None], str]] = [
    (nothing_held_back, "http/chat-stop-stream.json"),
    (nothing_held_back, "http/completion-stop-stream.json"),
    (stop_string_shown, "http/completion-stop.json"),
    (no_role_first, "http/chat-stream.json"),
    (an_empty_chunk_ends_the_stream, "http/completion-stream.json"),
    (prompts_counted_for_every_sample, "http/completion-n2.json"),
    (max_tokens_not_cut, "http/completion-prompt-plus-max-tokens-over.json"),
    (unprocessable, "http/err-chat-missing-messages.json"),
    (keys_for_every_path, "flags/http/api-key-missing-health.json"),
    (request_ids_are_always_generated, "flags/http/request-id-header-echoed.json"),
    (cached_tokens_of_one_block_more, "flags/http/prompt-tokens-details-again.json"),
    (one_more_in_the_queue, "flags/http/max-num-queued-reqs-rejected-completion.json"),
    (nulls_left_out, "http/completion-minimal.json"),
    (adapters_loaded_twice, "lora/http/load-same-again.json"),
    (compact_json_is_spaced, "http/completion-stream.json"),
    (stop_tokens_without_their_id, "http/completion-stop-token-ids.json"),
]


def _difference(file: str, into: Path) -> str | None:
    """The difference of one recorded exchange, replayed alone."""
    part, _, name = file.rpartition("/")
    (into / part).mkdir(parents=True)
    shutil.copy(FOLDER / part / name, into / part / name)
    shutil.copy(FOLDER / "server.yaml", into)
    (result,) = verify_http(into, part)
    assert result.file == file
    return result.difference


@pytest.mark.parametrize(("mutation", "file"), MUTATIONS, ids=[f"{m.__name__}-{f}" for m, f in MUTATIONS])
def test_a_mutation_makes_its_exchange_differ(
    mutation: Callable[[Patch], None], file: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    assert _difference(file, tmp_path / "right") is None
    mutation(monkeypatch)
    assert _difference(file, tmp_path / "wrong") is not None


def test_counting_requests_that_vllm_does_not_count_differs(monkeypatch: Patch) -> None:
    assert [result.difference for result in verify_http_counts(FOLDER)] == [None]
    monkeypatch.setattr(http_metrics, "_NOT_COUNTED", frozenset({"/metrics"}))
    assert [result.difference for result in verify_http_counts(FOLDER)] != [None]
