"""Which prompts a server is still computing.

Responses do not show it, because a stream's headers precede its first token. The server's counters do: they move at the
first token, and scrapes read them. A server computes prompts in the order of their arrival
(vLLM's default policy). So the oldest of the prompts sent to it are done first.
"""

from dataclasses import dataclass
from math import inf
from operator import attrgetter

import msgspec

NETWORK_S = 0.05
"""Upper limit on the time from a request's pick to its arrival at the server."""

MINIMUM_WINDOW_S = 30.0
"""How long a server's lowest difference of prefill counters is kept. At some scrape within it no prompt was in
prefill."""


class PrefillCounters(msgspec.Struct, frozen=True, gc=False):
    """A server's work since its start, in vLLM's counters. The difference of two is the work between them."""

    first_tokens: float
    """Requests with a first token (`time_to_first_token_seconds_count`)."""
    first_token_s: float
    """Sum of their times from arrival to first token (`time_to_first_token_seconds_sum`)."""
    prompt_tokens: float
    """Sum of their prompts, cached tokens included (`prompt_tokens_total`)."""
    prefix_queries: float = 0.0
    """Sum of the prompts of all admitted requests (`prefix_cache_queries_total`). 0 without a prefix cache."""
    prefix_hits: float = 0.0
    """Tokens of those that the prefix cache had (`prefix_cache_hits_total`)."""

    def since(self, before: "PrefillCounters") -> "PrefillCounters | None":
        """The difference. None if the server has restarted in between."""
        difference = PrefillCounters(
            self.first_tokens - before.first_tokens,
            self.first_token_s - before.first_token_s,
            self.prompt_tokens - before.prompt_tokens,
            self.prefix_queries - before.prefix_queries,
            self.prefix_hits - before.prefix_hits,
        )
        went_back = (
            min(
                difference.first_tokens,
                difference.first_token_s,
                difference.prompt_tokens,
                difference.prefix_queries,
            )
            < 0
        )
        return None if went_back else difference


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt that was sent to a server."""

    tokens: int
    """To be computed, as far as is known. 0 once they are computed."""
    predicted_s: float
    """From sending to its first token, on a server as fast as the pool's mean. 0 if unknown."""
    sent_s: float
    sequences: int = 1
    """Number of first tokens that the server counts for it."""
    from_peer: bool = False
    """Whether another replica of the picker has sent and reported it."""
    first_token_after_s: float = 0.0
    first_token_by_s: float = inf
    """The scrapes between which its first token is estimated to come."""


class PrefillTracker:
    """The prompts that this picker has sent to one server and whose first tokens no scrape has shown."""

    __slots__ = ("_ended", "_minimum", "_minimum_before", "_minimum_since_s", "_prompts", "_unsorted")

    def __init__(self) -> None:
        self._prompts: dict[Prompt, None] = {}
        """In the order of sending, unless `_unsorted`."""
        self._unsorted = False
        """Whether a peer's prompt was reported after later prompts of this picker."""
        self._ended = 0
        """Sequences that ended with a response since the last scrape. The next scrape counts their first tokens."""
        self._minimum = self._minimum_before = inf
        self._minimum_since_s = -inf

    def sent(self, prompt: Prompt) -> None:
        self._prompts[prompt] = None
        if prompt.from_peer:
            self._unsorted = True

    def moved(self, prompt: Prompt) -> bool:
        """Remove a prompt that another server has now. Returns whether it was still pending here."""
        if prompt not in self._prompts:
            return False
        del self._prompts[prompt]
        return True

    def ended(self, prompt: Prompt, answered: bool) -> None:
        """Remove a prompt whose request has ended. `answered`: with a response that was no error."""
        if prompt in self._prompts:
            del self._prompts[prompt]
            self._ended += prompt.sequences if answered else 0

    def restarted(self) -> None:
        """Reset after the server's counters have restarted at 0."""
        self._ended = 0
        self._minimum = self._minimum_before = inf

    def computed(self, did: PrefillCounters, before_s: float, now_s: float, alone: bool) -> list[Prompt]:
        """Remove and return the prompts that are computed now, oldest first.

        `did` is the server's work since the scrape at `before_s`. `alone`: no other client sends it requests.
        """
        count = round(did.first_tokens) - self._ended
        self._ended = 0
        if did.first_tokens < 1:
            # 0, or a fraction: no server counts fractions, and a mean over one may be any number.
            return []
        mean_s = did.first_token_s / did.first_tokens
        # At least one of these first tokens took no longer than the mean. All prompts that arrived before it had their
        # first tokens before it.
        surely_s = before_s - mean_s - NETWORK_S
        # The count includes other clients' prompts. A prompt older than the present time to first token is done.
        likely_s = inf if alone else now_s - mean_s
        if self._unsorted:
            self._unsorted = False
            self._prompts = dict.fromkeys(sorted(self._prompts, key=attrgetter("sent_s")))
        found: list[Prompt] = []
        sequences = 0
        for prompt in self._prompts:
            if prompt.sent_s >= surely_s and (sequences >= count or prompt.sent_s > likely_s):
                break
            found.append(prompt)
            sequences += prompt.sequences
        for prompt in found:
            del self._prompts[prompt]
            prompt.first_token_after_s, prompt.first_token_by_s = before_s, now_s
        return found

    def pending_prefill_tokens(self, progress: PrefillCounters, now_s: float) -> float:
        """Prompt tokens, of any client, that the server has admitted and not yet computed, cached tokens included.

        Requests that are cancelled in their prefill, or that look up nothing, leave a permanent difference between the
        counters. The minimum over `MINIMUM_WINDOW_S` is that difference.
        """
        difference = progress.prefix_queries - progress.prompt_tokens
        if now_s - self._minimum_since_s > MINIMUM_WINDOW_S:
            self._minimum_since_s = now_s
            self._minimum_before, self._minimum = self._minimum, inf
        self._minimum = min(self._minimum, difference)
        return difference - min(self._minimum, self._minimum_before)
