"""Incremental detokenization as in vLLM: whole characters only, and no text that may become a stop string."""

import codecs
from collections.abc import Sequence

from vllm_mock.tokens.tokenizer import Tokenizer


class GrowingText:
    """The text of one sequence. `add` appends a token, `take` returns the text that is ready to be sent."""

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
        """The whole text, cut at the stop string if one was found."""
        self.stopped_by: str | None = None

    def add(self, token: int) -> str:
        """Appends a token and returns the text that it adds."""
        before = len(self.text)
        added = self._decoder.decode(self._tokenizer.piece(token))
        self.text += added
        self._tokens += 1
        if added and self._stops and self._tokens > self._min_tokens:
            self._look_for_stops(before)
        return added

    def skip(self) -> None:
        """Counts a token that ended the sequence and is not part of its text."""
        self._tokens += 1

    def take(self, finished: bool) -> str:
        """The text that is ready to be sent and was not taken yet.

        Before the end, as many characters are held back as the beginning of a stop string can have.
        """
        ready = len(self.text) if finished or self.stopped_by is not None else len(self.text) - self._held_back
        if ready <= self._shown:
            return ""
        taken = self.text[self._shown : ready]
        self._shown = ready
        return taken

    def _look_for_stops(self, before: int) -> None:
        """Cuts the text at the first stop string of the list that ends in the text after `before`."""
        for stop in self._stops:
            at = self.text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0:
                self.stopped_by = stop
                self.text = self.text[: at + len(stop)] if self._include_stop else self.text[:at]
                return
