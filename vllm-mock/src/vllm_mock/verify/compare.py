"""Comparing an answer with a recorded one: everything but what cannot be equal."""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from vllm_mock.verify.exchanges import Json

NOT_COMPARED = (
    "ids that the server makes up (cmpl-*, chatcmpl-*, modelperm-*, x-request-id): their form is compared",
    "times: `created`, the offsets of a stream's lines",
    "the headers date, connection and vary, which the recordings of exchanges leave out",
    "the digest in system_fingerprint",
    "the model's words: they are given to the mock, and what follows from them is compared",
    "how many tokens a text is, and the ids of its tokens: the recorded vocabulary is not at hand",
    "log probabilities, ranks, and tokens that were not chosen: how they are laid out is compared",
    "how the chunks of several choices interleave in a stream",
    "times in metrics (_created, sums and buckets of _seconds): how many were observed is compared, and in traces the "
    "sums to 15%",
    "when exactly the requests of metrics-loaded.txt and metrics-after.txt arrived: sought, within 40 ms",
    "# HELP lines, which were not recorded",
    "the bodies of /docs, /openapi.json and /metrics (the metrics have their own rows)",
    "content-length where the body holds log probabilities or was not recorded",
)
"""What is not compared."""

_FORMS = (
    (re.compile(r"(?:(?<=\")|^)(cmpl|chatcmpl|modelperm)-[0-9a-f]{16}(?![0-9a-f-])"), r"\1-<made up>"),
    (re.compile(r"(vllm-[0-9.]+)-[0-9a-f]{8}(?![0-9a-f])"), r"\1-<digest>"),
    (re.compile(r'"created":\s*1[0-9]{9}(?![0-9])'), '"created":<time>'),
)
_NOT_RECORDED = frozenset({"date", "connection", "vary"})
_MADE_UP_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_PROBABILITY_FIELDS = frozenset({"logprob", "rank", "decoded_token", "token_logprobs"})


def first_line_difference(recorded: Sequence[str], ours: Sequence[str]) -> str | None:
    """Of streams; the chunks of each choice in their order."""
    for name, theirs, mine in _by_choice(recorded, ours):
        for number, (line, own) in enumerate(zip(theirs, mine, strict=False), start=1):
            if 'logprobs":{' in line:
                difference = first_difference(_event(line), _event(own))
                if difference is not None:
                    return f"{name}event {number}: {difference}"
            elif _normal(line) != _normal(own):
                return f"{name}event {number}: {_around(_normal(line), _normal(own))}"
        if len(theirs) != len(mine):
            return f"{name}{len(mine)} events, recorded {len(theirs)}"
    return None


def first_difference(recorded: Any, ours: Any, path: str = "") -> str | None:
    """Of JSON values, with the order of fields."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        return _dict_difference(cast(Json, recorded), cast(Json, ours), path)
    if isinstance(recorded, list) and isinstance(ours, list):
        return _list_difference(cast(list[Any], recorded), cast(list[Any], ours), path)
    theirs, mine = _scalar(recorded, path), _scalar(ours, path)
    return None if theirs == mine else f"{path or 'body'} is {mine}, recorded {theirs}"


def header_difference(
    recorded: dict[str, str], ours: dict[str, str], exact_length: bool, request_id: str | None
) -> str | None:
    """Of the headers of responses; both in lower case. `request_id` is what the client sent."""
    theirs, mine = (
        {name: value for name, value in headers.items() if name not in _NOT_RECORDED} for headers in (recorded, ours)
    )
    if request_id is None:
        for headers in (theirs, mine):
            if _MADE_UP_REQUEST_ID.fullmatch(headers.get("x-request-id", "")):
                headers["x-request-id"] = "<made up>"
    if not exact_length:
        for headers in (theirs, mine):
            if "content-length" in headers:
                headers["content-length"] = "<some>"
    for name in sorted(theirs.keys() | mine.keys()):
        if theirs.get(name) != mine.get(name):
            return f"header {name} is {mine.get(name)}, recorded {theirs.get(name)}"
    return None


def holds_probabilities(body: Any) -> bool:
    """Whether numbers that the mock makes up give the body its length."""
    if isinstance(body, dict):
        return any(
            name in ("logprob", "token_logprobs") or holds_probabilities(each)
            for name, each in cast(Json, body).items()
        )
    return isinstance(body, list) and any(holds_probabilities(each) for each in cast(list[Any], body))


def _list_difference(recorded: list[Any], ours: list[Any], path: str) -> str | None:
    if len(recorded) != len(ours):
        return f"{path or 'body'} has {len(ours)} items, recorded {len(recorded)}"
    differences = (
        first_difference(theirs, mine, f"{path}[{index}]")
        for index, (theirs, mine) in enumerate(zip(recorded, ours, strict=True))
    )
    return next((each for each in differences if each is not None), None)


def _dict_difference(recorded: dict[str, Any], ours: dict[str, Any], path: str) -> str | None:
    if path.endswith(("top_logprobs", "]")) and _is_alternatives(recorded) and _is_alternatives(ours):
        return _alternatives_difference(recorded, ours, path)
    if list(recorded) != list(ours):
        return f"{path or 'body'} has the fields {list(ours)}, recorded {list(recorded)}"
    for name, theirs in recorded.items():
        place = f"{path}.{name}" if path else name
        if "top_logprobs" in place and name in ("token", "bytes"):
            continue
        difference = first_difference(theirs, ours[name], place)
        if difference is not None:
            return difference
    return None


def _is_alternatives(value: dict[str, Any]) -> bool:
    """A map from tokens to their probabilities."""
    return bool(value) and all(
        isinstance(each, float) or (isinstance(each, dict) and "rank" in each) for each in value.values()
    )


def _alternatives_difference(recorded: dict[str, Any], ours: dict[str, Any], path: str) -> str | None:
    """The chosen token, and the form of an entry. How many there are depends on whether it was among the best."""
    theirs, mine = next(iter(recorded.values())), next(iter(ours.values()))
    if type(theirs) is not type(mine) or (
        isinstance(theirs, dict) and list(cast(Json, theirs)) != list(cast(Json, mine))
    ):
        return f"{path} holds {mine}, recorded {theirs}"
    if abs(len(recorded) - len(ours)) > 1:
        return f"{path} holds {len(ours)} tokens, recorded {len(recorded)}"
    return None


def _scalar(value: Any, path: str) -> Any:
    name = re.split(r"[.\[]", re.sub(r"\[\d+\]$", "", path))[-1]
    if name in _PROBABILITY_FIELDS and value is not None:
        return f"<{type(value).__name__}>"
    if name == "created" and isinstance(value, int):
        return "<time>" if 1_000_000_000 < value < 10_000_000_000 else value
    return _normal(value) if isinstance(value, str) else value


def _normal(text: str) -> str:
    for form, stands_for in _FORMS:
        text = form.sub(stands_for, text)
    return text


def _by_choice(recorded: Sequence[str], ours: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    theirs, mine = _choices(recorded), _choices(ours)
    several = len(theirs) > 2
    names = list(dict.fromkeys([*theirs, *mine]))
    return [
        (f"choice {name}, " if several and name else "", theirs.get(name, []), mine.get(name, [])) for name in names
    ]


def _choices(lines: Sequence[str]) -> dict[str, list[str]]:
    """Events by the choice that they belong to; those of none (usage, the end) apart."""
    told: dict[str, list[str]] = {}
    for line in lines:
        if line:
            found = re.search(r'"choices":\[\{"index":(\d+)', line)
            told.setdefault(found[1] if found else "", []).append(line)
    return told


def _event(line: str) -> Any:
    return json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else line


def _around(recorded: str, ours: str) -> str:
    """Where two texts part."""
    at = next(
        (index for index, (a, b) in enumerate(zip(recorded, ours, strict=False)) if a != b),
        min(len(recorded), len(ours)),
    )
    return f"...{ours[max(0, at - 30) : at + 40]!r}, recorded ...{recorded[max(0, at - 30) : at + 40]!r}"
