"""Which headers of a client's request have an effect, and their values.

A header may have several names: upstream's present name, then its earlier one. The first that is present is read."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import structlog

from picker.bounded_text import MAX_CHARACTERS, shorten
from picker.protocol import (
    AGENT_SESSIONS,
    FAIRNESS_ID,
    LEGACY_FAIRNESS_ID,
    LEGACY_MODEL_REWRITE,
    LEGACY_OBJECTIVE,
    LEGACY_SLO_TPOT_MS,
    LEGACY_SLO_TTFT_MS,
    MODEL_REWRITE,
    OBJECTIVE,
    SLO_TPOT_MS,
    SLO_TTFT_MS,
)
from picker.scheduling.latency_slo import LatencySlo

log = structlog.get_logger(__name__)

_MILLISECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{0,15})?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class ReadHeaders:
    """The names by header. Empty: the header has no effect."""

    objective: Sequence[str] = ()
    fairness_id: Sequence[str] = ()
    model_rewrite: Sequence[str] = ()
    sessions: Sequence[str] = ()
    """Of a session's id, which replaces a missing fairness id."""
    slo_ttft: Sequence[str] = (SLO_TTFT_MS, LEGACY_SLO_TTFT_MS)
    slo_tpot: Sequence[str] = (SLO_TPOT_MS, LEGACY_SLO_TPOT_MS)
    slo: Sequence[str] = field(init=False)
    """All names of a requested latency."""
    only_slo: bool = field(init=False)
    """Whether no other header has an effect."""

    def __post_init__(self) -> None:
        # Computed once, because every request uses them.
        object.__setattr__(self, "slo", (*self.slo_ttft, *self.slo_tpot))
        others = (self.objective, self.fairness_id, self.model_rewrite, self.sessions)
        object.__setattr__(self, "only_slo", not any(others))

    @classmethod
    def of(
        cls, trusted: Collection[str] = (), sessions: Iterable[str] = (), *, agents: bool = False, legacy: bool = True
    ) -> "ReadHeaders":
        """`trusted`: names of headers that a proxy or policy in front of the gateway sets. Others have no effect in the
        first three fields. `agents`: whether `AGENT_SESSIONS` are read before `sessions`. `legacy`: whether upstream's
        earlier names have an effect."""

        def read(*names: str) -> Sequence[str]:
            return tuple(name for name in names if name in trusted and (legacy or name not in _LEGACY))

        return cls(
            read(OBJECTIVE, LEGACY_OBJECTIVE),
            read(FAIRNESS_ID, LEGACY_FAIRNESS_ID),
            read(MODEL_REWRITE, LEGACY_MODEL_REWRITE),
            (*(AGENT_SESSIONS if agents else ()), *sessions),
            (SLO_TTFT_MS, LEGACY_SLO_TTFT_MS) if legacy else (SLO_TTFT_MS,),
            (SLO_TPOT_MS, LEGACY_SLO_TPOT_MS) if legacy else (SLO_TPOT_MS,),
        )

    def objective_of(self, headers: Mapping[str, str]) -> str | None:
        """The name of an InferenceObjective."""
        return _first_of(headers, self.objective) if self.objective else None

    def flow_of(self, headers: Mapping[str, str]) -> str | None:
        """The fairness id, else the session with the header's name, so that no session is another client's id."""
        flow = _first_of(headers, self.fairness_id) if self.fairness_id else None
        if flow is None and self.sessions:
            for name in self.sessions:
                if value := headers.get(name):
                    return f"{name}={shorten(value)}"
        return flow

    def model_rewrite_of(self, headers: Mapping[str, str]) -> str | None:
        """The servers' name for the model. A name that is longer than any model's is ignored."""
        for name in self.model_rewrite:
            if value := headers.get(name):
                if len(value) <= MAX_CHARACTERS:
                    return value
                log.debug("request.header_ignored", header=name, value=shorten(value))
        return None

    def slo_of(self, headers: Mapping[str, str]) -> LatencySlo | None:
        """The latencies that the client requests. Values that are no positive number are ignored."""
        # Nearly all requests have none of them. This is faster than two searches for the first.
        for name in self.slo:
            if name in headers:
                ttft, tpot = _latency(headers, self.slo_ttft), _latency(headers, self.slo_tpot)
                return LatencySlo(ttft, tpot) if ttft is not None or tpot is not None else None
        return None


DEFAULT_HEADERS = ReadHeaders()
_LEGACY = frozenset({LEGACY_OBJECTIVE, LEGACY_FAIRNESS_ID, LEGACY_MODEL_REWRITE})


def _first_of(headers: Mapping[str, str], names: Iterable[str]) -> str | None:
    """The value of the first of `names` that is present and not empty, cut to the length of kept text."""
    for name in names:
        if value := headers.get(name):
            return shorten(value)
    return None


def _latency(headers: Mapping[str, str], names: Iterable[str]) -> float | None:
    """The value of the first of `names` that is present, in milliseconds, as seconds. None if it is no positive finite
    number."""
    name = next((name for name in names if name in headers), None)
    if name is None:
        return None
    value = headers[name]
    if _MILLISECONDS.fullmatch(value):
        seconds = float(value) / 1000
        if isfinite(seconds) and seconds > 0:
            return seconds
    log.debug("request.header_ignored", header=name, value=shorten(value))
    return None
