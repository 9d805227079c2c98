"""Continuous load, for tests that change the cluster while requests run."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
from releases import MODEL
from waits import until


@dataclass(slots=True)
class Load:
    """`with Load(url):` clients send streaming chats, each client one after the other, until the block ends."""

    url: str
    clients: int = 4
    max_tokens: int = 20
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    """Requests by outcome: `ok`, a status with the start of its body, `cut off`, or the name of the error."""
    problems: list[str] = field(default_factory=list[str])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._chat, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> int:
        return self.outcomes.total() - self.outcomes["ok"]

    def wait_for_answers(self, count: int = 10) -> None:
        """Waits until `count` more requests have succeeded."""
        target = self.outcomes["ok"] + count
        until(lambda: self.outcomes["ok"] >= target, f"{count} more requests succeed; problems: {self.problems[-3:]}")

    def _chat(self, client: int) -> None:
        with httpx.Client(timeout=60, headers=dict(self.headers)) as http:
            number = 0
            while not self._stop.is_set():
                number += 1
                outcome = self._one(http, f"client {client}, request {number}")
                self.outcomes[outcome] += 1
                if outcome != "ok":
                    self.problems.append(f"{time.strftime('%H:%M:%S')} {outcome}")
                    self._stop.wait(0.05)

    def _one(self, http: httpx.Client, content: str) -> str:
        body = {
            "model": self.model,
            "stream": True,
            "max_completion_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        try:
            with http.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code} {answer.read()[:200]!r}"
                last = [line for line in answer.iter_lines() if line]
                return "ok" if last and last[-1] == "data: [DONE]" else "cut off"
        except httpx.TransportError as error:
            return type(error).__name__
