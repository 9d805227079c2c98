"""Tokens as they come, turned into text as vLLM hands it out: whole characters, and nothing that may yet turn out to be
a stop string."""

import codecs
from collections.abc import Sequence

from vllm_mock.tokens.tokenizer import Tokenizer


class GrowingText:
    """The text of one sequence. `add` tokens, then `take` what may be shown."""

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._held_back = max((len(stop) for stop in stops), default=1) - 1 if not include_stop else 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tokens = 0
        self._shown = 0
        self.text = ""
        """All of it, cut at the stop string where one was found."""
        self.stopped_by: str | None = None

    def add(self, token: int) -> str:
        """What this token adds to the text."""
        before = len(self.text)
        added = self._decoder.decode(self._tokenizer.piece(token))
        self.text += added
        self._tokens += 1
        if added and self._stops and self._tokens > self._min_tokens:
            self._look_for_stops(before)
        return added

    def skip(self) -> None:
        """A token ended the sequence and is not part of its text."""
        self._tokens += 1

    def take(self, finished: bool) -> str:
        """What may be shown and has not been. Until the end, as many characters stay back as a stop string that has
        only begun may have."""
        ready = len(self.text) if finished or self.stopped_by is not None else len(self.text) - self._held_back
        if ready <= self._shown:
            return ""
        taken = self.text[self._shown : ready]
        self._shown = ready
        return taken

    def _look_for_stops(self, before: int) -> None:
        """The first of the list that occurs, ending in what is new."""
        for stop in self._stops:
            at = self.text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0:
                self.stopped_by = stop
                self.text = self.text[: at + len(stop)] if self._include_stop else self.text[:at]
                return
