"""Writes large answers in small pieces, so that picks wait for one piece and not for the answer."""

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
"""Of a metrics page in one piece. With the longest labels a piece is written in about 1 ms (measured)."""

MAX_ANSWER_BYTES = 8 << 20
"""Of `/decisions`, `/endpoints` and `/pools`: 1,000 decisions over 30 endpoints. What goes beyond is left out."""

_EOF = b"# EOF\n"


class Turns:
    """Lets the answers of one process take turns on the event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def pieces(self, made: Iterable[bytes]) -> AsyncIterator[bytes]:
        """The bytes of `made`, each made in a turn of its own. All turns together take half of the loop's time."""
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
    """The page in pieces, and its content type. `accept`: the header of the request."""
    write, content_type = choose_encoder(accept)

    def pieces() -> Iterator[bytes]:
        for family in registry.collect():
            # A family of ours makes its samples as they are read.
            samples = iter(family.samples)
            page = write(_One(family, list(islice(samples, SAMPLES))))
            yield page.removesuffix(_EOF)
            while some := list(islice(samples, SAMPLES)):
                yield _without_head(write(_One(family, some)).removesuffix(_EOF))
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
    """`page` without the comments at its beginning; the first piece of a family has them."""
    while page.startswith(b"# "):
        page = page.partition(b"\n")[2]
    return page


def batches(items: Iterable[object], size: int = 50) -> Iterator[bytes]:
    """`items` as JSON, `size` of them in one, a line each."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield b",\n".join(map(msgspec.json.encode, batch))


def json_list(items: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON array, an item a line, each a piece; ends early at `MAX_ANSWER_BYTES`."""
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
    """`family` with samples that are made as they are read, once."""
    family.samples = cast("list[Sample]", samples)
    return family
