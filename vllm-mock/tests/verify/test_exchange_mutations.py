"""Verification notices wrong rules at the door: each of these, put in place of the right one, must make the recorded
exchange differ. And it does not differ without them."""

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
from vllm_mock.generation.errors import Refused
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.loras import Loras
from vllm_mock.generation.replica import Asked, Replica
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

    def leave_it(self: Any, before: int) -> None:
        self._include_stop = True
        look(self, before)

    patch.setattr(GrowingText, "_look_for_stops", leave_it)


def no_role_first(patch: Patch) -> None:
    patch.setattr(chat, "_beginnings", lambda body, generation: [])


def an_empty_chunk_ends_the_stream(patch: Patch) -> None:
    told = completions.chunks

    async def one_more(*arguments: Any) -> AsyncIterator[bytes]:
        last = b""
        async for data in told(*arguments):
            if data == b"data: [DONE]\n\n":
                yield last
            last = data
            yield data

    patch.setattr(completions, "chunks", one_more)


def prompts_counted_for_every_sample(patch: Patch) -> None:
    patch.setattr(Asked, "prompt_tokens", property(lambda self: sum(len(each.prompt) for each in self.sequences)))


def max_tokens_not_cut(patch: Patch) -> None:
    def refuse(self: Replica, prompt: Any, wanted: int | None) -> int:
        room = self.max_model_len - len(prompt.tokens)
        if wanted is not None and wanted > room:
            raise Refused.value("too long", "max_tokens", wanted)
        return room if wanted is None else wanted

    patch.setattr(Replica, "_room", refuse)


def unprocessable(patch: Patch) -> None:
    invalid = validation._invalid

    def with_422(errors: Any) -> Refused:
        refused = invalid(errors)
        return Refused(422, refused.message, refused.param, refused.kind)

    patch.setattr(validation, "_invalid", with_422)


def keys_for_every_path(patch: Patch) -> None:
    call = ApiKeys.__call__

    async def locked(self: ApiKeys, scope: Any, receive: Any, send: Any) -> None:
        await call(self, {**scope, "path": "/v1/any"}, receive, send)

    patch.setattr(ApiKeys, "__call__", locked)


def request_ids_are_always_made_up(patch: Patch) -> None:
    call = RequestIds.__call__

    async def forgetful(self: RequestIds, scope: Any, receive: Any, send: Any) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        await call(self, {**scope, "headers": kept}, receive, send)

    patch.setattr(RequestIds, "__call__", forgetful)


def cached_tokens_of_one_block_more(patch: Patch) -> None:
    told = usage.usage

    def wrong(replica: Replica, generation: Any) -> Usage:
        right = told(replica, generation)
        details = right.prompt_tokens_details
        assert details is not None
        return msgspec.structs.replace(
            right, prompt_tokens_details=msgspec.structs.replace(details, cached_tokens=details.cached_tokens + 32)
        )

    patch.setattr(completions, "usage", wrong)


def one_more_in_the_queue(patch: Patch) -> None:
    admit = Replica.admit

    def late(self: Replica) -> None:
        most = self.options.max_queued_requests
        if most is None or self.engine.engine.live_requests > most:
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
    (request_ids_are_always_made_up, "flags/http/request-id-header-echoed.json"),
    (cached_tokens_of_one_block_more, "flags/http/prompt-tokens-details-again.json"),
    (one_more_in_the_queue, "flags/http/max-num-queued-reqs-rejected-completion.json"),
    (nulls_left_out, "http/completion-minimal.json"),
    (adapters_loaded_twice, "lora/http/load-same-again.json"),
    (compact_json_is_spaced, "http/completion-stream.json"),
    (stop_tokens_without_their_id, "http/completion-stop-token-ids.json"),
]


def _difference(file: str, into: Path) -> str | None:
    """Of one recorded exchange, replayed alone."""
    part, _, name = file.rpartition("/")
    (into / part).mkdir(parents=True)
    shutil.copy(FOLDER / part / name, into / part / name)
    shutil.copy(FOLDER / "server.yaml", into)
    (result,) = verify_http(into, part)
    assert result.file == file
    return result.difference


@pytest.mark.parametrize(("mutation", "file"), MUTATIONS, ids=[f"{m.__name__}-{f}" for m, f in MUTATIONS])
def test_a_wrong_rule_is_noticed(
    mutation: Callable[[Patch], None], file: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    assert _difference(file, tmp_path / "right") is None
    mutation(monkeypatch)
    assert _difference(file, tmp_path / "wrong") is not None


def test_counting_what_vllm_does_not_count_is_noticed(monkeypatch: Patch) -> None:
    assert [each.difference for each in verify_http_counts(FOLDER)] == [None]
    monkeypatch.setattr(http_metrics, "_NOT_COUNTED", frozenset({"/metrics"}))
    assert [each.difference for each in verify_http_counts(FOLDER)] != [None]
