"""Regular expressions, validated by the engine that Envoy runs them with."""

from typing import Any, cast

import re2  # pyright: ignore[reportMissingTypeStubs]

_re2 = cast(Any, re2)
"""The package has no types."""

_OPTIONS = _re2.Options()
# Envoy runs RE2 over bytes: it rejects `\x{100}`, and a letter of several UTF-8 bytes is several characters.
_OPTIONS.encoding = _re2.Options.Encoding.LATIN1
# RE2 would write each expression that it rejects to stderr.
_OPTIONS.log_errors = False


def expression_problem(expression: str) -> str | None:
    """Why Envoy rejects `expression`. None if it accepts it.

    RE2 rejects parts of the syntax of Python's `re`: look-around, back-references, repetitions beyond 1,000, programs
    beyond 8 MiB. Envoy's own schema rejects the empty expression (`RegexMatcher.regex` has at least one character).
    Envoy's limit on the program size does not apply: `bootstrap` turns it off as Envoy Gateway does.
    """
    if not expression:
        return "it is empty, and Envoy rejects empty expressions"
    try:
        _re2.compile(expression.encode(), _OPTIONS)
    except _re2.error as error:
        [reason] = error.args
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    return None


def matches_whole(expression: str, text: str) -> bool:
    """Whether `expression` matches the whole of `text`, as Envoy matches headers. False for a rejected expression."""
    if expression_problem(expression) is not None:
        return False
    return _re2.compile(expression.encode(), _OPTIONS).fullmatch(text.encode()) is not None
