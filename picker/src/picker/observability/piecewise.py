"""Writes large responses in small pieces, so that picks wait for one piece and not for the whole response."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import cast

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample

SAMPLES = 100
"""Of a metrics page in one piece. Measured: with the longest labels a piece is written in about 1 ms."""

MAX_ANSWER_BYTES = 8 << 20
"""Of `/decisions`, `/endpoints` and `/pools`: 1,000 decisions over 30 endpoints. Further items are omitted.
Judgement."""

_EOF = b"# EOF\n"


class Turns:
    """Schedules the responses of one process on the event loop, a piece of each in turn."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def pieces(self, made: Iterable[bytes]) -> AsyncIterator[bytes]:
        """Yields the items of `made`, each made in a separate turn. All turns together use half of the loop's time."""
        iterator = iter(made)
        while True:
            async with self._lock:
                began_s = time.perf_counter()
                piece = next(iterator, None)
                await asyncio.sleep(time.perf_counter() - began_s)
            if piece is None:
                return
            yield piece


def metrics_page(registry: CollectorRegistry, accept: str) -> tuple[Iterator[bytes], str]:
    """Returns the page in pieces, and its content type. `accept`: the header of the request."""
    write, content_type = choose_encoder(accept)

    def pieces() -> Iterator[bytes]:
        for family in registry.collect():
            # The picker's families make their samples as they are read.
            samples = iter(family.samples)
            page = write(_One(family, list(islice(samples, SAMPLES))))
            yield page.removesuffix(_EOF)
            while chunk := list(islice(samples, SAMPLES)):
                yield _without_head(write(_One(family, chunk)).removesuffix(_EOF))
        if content_type.startswith("application/openmetrics-text"):
            yield _EOF

    return pieces(), content_type


class _One(CollectorRegistry):
    """A registry of one family with some of its samples."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        super().__init__()
        self._family = Metric(family.name, family.documentation, family.type, family.unit)
        self._family.samples = samples

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _without_head(page: bytes) -> bytes:
    """Removes the comments at the beginning of `page`. The first piece of a family already has them."""
    while page.startswith(b"# "):
        page = page.partition(b"\n")[2]
    return page


def batches(items: Iterable[object], size: int = 50) -> Iterator[bytes]:
    """Yields `items` as JSON, a line each, in pieces of `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield b",\n".join(map(msgspec.json.encode, batch))


def json_list(items: Iterable[bytes]) -> Iterator[bytes]:
    """Yields a JSON array of `items`, which are JSON already, with a line and a piece for each. Ends early at
    `MAX_ANSWER_BYTES`."""
    written = 0
    separator = b"["
    for item in items:
        written += len(item) + 2
        if written > MAX_ANSWER_BYTES:
            break
        yield separator + b"\n" + item
        separator = b","
    yield b"[]\n" if separator == b"[" else b"\n]\n"


def lazy(family: Metric, samples: Iterator[Sample]) -> Metric:
    """Gives `family` samples that are made as they are read. They can be read once."""
    family.samples = cast("list[Sample]", samples)
    return family
