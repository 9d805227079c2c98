"""Which prompts a server is still computing. Its answers do not tell, for a stream's headers come before its first
token; its counters do: they move at the first token, and scrapes read them.

A server computes prompts in the order of their coming (vLLM's default policy), so of those sent to it the oldest are
the ones that are done."""

from dataclasses import dataclass
from math import inf

import msgspec

NETWORK_S = 0.05
"""More than a request takes from its pick to the server."""

LEAST_KEPT_S = 30.0
"""How long the least that a server had in prefill is remembered: at some scrape within it, it had nothing."""


class PrefillCounters(msgspec.Struct, frozen=True, gc=False):
    """What a server has done since its start, in vLLM's counters; differences of two say what it did between them."""

    first_tokens: float
    """Requests whose first token is out (`time_to_first_token_seconds_count`)."""
    first_token_s: float
    """Sum of their times from arrival to first token (`time_to_first_token_seconds_sum`)."""
    prompt_tokens: float
    """Sum of their prompts, what was cached included (`prompt_tokens_total`)."""
    prefix_queries: float = 0.0
    """Sum of the prompts of all that were ever admitted (`prefix_cache_queries_total`); 0 where nothing is cached."""
    prefix_hits: float = 0.0
    """Of those the tokens found in the prefix cache (`prefix_cache_hits_total`)."""

    def since(self, before: "PrefillCounters") -> "PrefillCounters | None":
        """The difference; None when the server has started anew in between."""
        made = PrefillCounters(
            self.first_tokens - before.first_tokens,
            self.first_token_s - before.first_token_s,
            self.prompt_tokens - before.prompt_tokens,
            self.prefix_queries - before.prefix_queries,
            self.prefix_hits - before.prefix_hits,
        )
        went_back = min(made.first_tokens, made.first_token_s, made.prompt_tokens, made.prefix_queries) < 0
        return None if went_back else made


@dataclass(slots=True, eq=False)
class Prompt:
    """One that was sent to a server."""

    tokens: int
    """To be computed, as far as is known; 0 once they are."""
    work_tokens: float
    """Ahead of its first token when it was sent, its own included; 0 where that is not known."""
    sent_s: float
    sequences: int = 1
    """Of so many first tokens the server counts."""


class PrefillTracker:
    """The prompts that this picker has sent to one server, and of whose first token no scrape has told."""

    __slots__ = ("_ended", "_least", "_least_before", "_least_since_s", "_prompts")

    def __init__(self) -> None:
        self._prompts: dict[Prompt, None] = {}
        """In the order of their being sent."""
        self._ended = 0
        """Sequences that have ended with an answer since the last scrape: the next one counts their first tokens."""
        self._least = self._least_before = inf
        self._least_since_s = -inf

    def sent(self, prompt: Prompt) -> None:
        self._prompts[prompt] = None

    def moved(self, prompt: Prompt) -> bool:
        """Another server has it now; whether it was still awaited here."""
        if prompt not in self._prompts:
            return False
        del self._prompts[prompt]
        return True

    def ended(self, prompt: Prompt, answered: bool) -> None:
        """Its request has; `answered`: with an answer that was no error."""
        if prompt in self._prompts:
            del self._prompts[prompt]
            self._ended += prompt.sequences if answered else 0

    def restarted(self) -> None:
        """The server counts from 0 again."""
        self._ended = 0
        self._least = self._least_before = inf

    def computed(self, did: PrefillCounters, before_s: float, now_s: float, alone: bool) -> list[Prompt]:
        """Take out the prompts that are computed now, oldest first. Since the scrape at `before_s` the server `did` so
        much; `alone`: nobody else sends it requests."""
        count = round(did.first_tokens) - self._ended
        self._ended = 0
        if did.first_tokens < 1:
            # None, or a fraction: no server counts so, and a mean of it may be any number.
            return []
        mean_s = did.first_token_s / did.first_tokens
        # One of those first tokens at least took no longer than the mean, and whatever had come before it came out
        # before it.
        surely_s = before_s - mean_s - NETWORK_S
        # Those of others are among the count. What came longer ago than a first token takes now is done.
        likely_s = inf if alone else now_s - mean_s
        found: list[Prompt] = []
        sequences = 0
        for prompt in self._prompts:
            if prompt.sent_s >= surely_s and (sequences >= count or prompt.sent_s > likely_s):
                break
            found.append(prompt)
            sequences += prompt.sequences
        for prompt in found:
            del self._prompts[prompt]
        return found

    def pending_prefill_tokens(self, progress: PrefillCounters, now_s: float) -> float:
        """Of prompts, anybody's, that the server has admitted and not yet computed, what was cached included. Requests
        that were given up in their prefill, or looked up nothing, leave a difference for good between the counters:
        that is told from what is in prefill by being there always."""
        difference = progress.prefix_queries - progress.prompt_tokens
        if now_s - self._least_since_s > LEAST_KEPT_S:
            self._least_since_s = now_s
            self._least_before, self._least = self._least, inf
        self._least = min(self._least, difference)
        return difference - min(self._least, self._least_before)
