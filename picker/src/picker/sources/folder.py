"""A folder of manifests and an endpoints file, watched."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from pathlib import Path

import structlog
from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

from picker.bounded_text import shorten
from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import Parsed
from picker.resources.problems import InvalidManifests, Problem
from picker.resources.references import reference_warnings
from picker.resources.validate import manifest_files, read_manifest
from picker.sources.diff import changes
from picker.sources.endpoints_file import read_endpoints
from picker.sources.inventory import Inventory, ModelServer

RETRY_S = 1.0
"""Between two watches of which the first has failed."""

MAX_LOGGED = 100
"""Problems of one look at the files in the log. Judgement: more than are mended at once."""

log = structlog.get_logger(__name__)

DEBOUNCE_MS = 50
"""An editor's save is a handful of file events; they are read once, and an edit still takes effect at once."""

LOOK_AGAIN_MS = 500
"""After the watch has begun: an edit that came between the first look and the watch was not announced."""


class FolderSource:
    """See `inventory.Source`. A file that is wrong keeps what it last said rightly, the other files go on changing: one
    person's mistake does not hold up another's edit."""

    def __init__(self, folder: Path, endpoints_file: Path) -> None:
        self._folder = folder
        self._endpoints_file = endpoints_file
        self._good: dict[Path, list[Parsed]] = {}
        self._servers: tuple[ModelServer, ...] = ()
        self._problems: set[str] = set()
        self._warnings: set[str] = set()
        self._refused = 0

    @property
    def refused(self) -> int:
        return self._refused

    async def inventories(self) -> AsyncIterator[Inventory]:
        """Raises InvalidManifests when the folder is wrong from the start."""
        if problems := self._read():
            raise InvalidManifests(problems)
        current = self._inventory()
        yield current
        async with aclosing(self._changes()) as looks:
            async for _ in looks:
                # In a thread: requests are answered while files are read.
                self._tell_problems(await asyncio.to_thread(self._read))
                new = await asyncio.to_thread(self._inventory)
                if new != current:
                    for line in changes(current, new):
                        log.info("source.changed", change=line)
                    current = new
                    yield current

    async def _changes(self) -> AsyncGenerator[None]:
        """Whenever the files have to be read again. A watch that fails is begun again, and so is one of a folder in
        whose place is another."""
        failed = ""
        while True:
            watched = self._watched()
            try:
                looked_again = False
                async with aclosing(self._watch()) as watch:
                    async for events in watch:
                        if watched != self._watched():
                            break
                        if not events and looked_again:
                            continue
                        looked_again = True
                        yield
            except (OSError, RuntimeError, ExceptionGroup) as error:
                # watchfiles raises its errors in groups. It cannot read names of files that are not UTF-8, for one.
                if repr(error) != failed:
                    failed = repr(error)
                    log.warning("source.watch_failed", reason=shorten(failed))
                await asyncio.sleep(RETRY_S)
                yield

    def _watch(self) -> AsyncGenerator[Collection[object]]:
        return awatch(
            self._folder,
            self._endpoints_file.parent,
            debounce=DEBOUNCE_MS,
            step=DEBOUNCE_MS,
            rust_timeout=LOOK_AGAIN_MS,
            yield_on_timeout=True,
            recursive=True,
        )

    def _watched(self) -> Sequence[tuple[int, int] | None]:
        """What the watched folders are now; None for one that is gone."""

        def identity(folder: Path) -> tuple[int, int] | None:
            try:
                found = folder.stat()
            except OSError:
                return None
            return found.st_dev, found.st_ino

        return [identity(folder) for folder in (self._folder, self._endpoints_file.parent)]

    def _read(self) -> Sequence[Problem]:
        """Take in every file that is right; return what is wrong with the others."""
        problems: list[Problem] = []
        if not self._folder.is_dir():
            return [Problem(str(self._folder), None, None, None, "is not a folder")]
        files = list(manifest_files([self._folder]))
        for gone in self._good.keys() - set(files):
            del self._good[gone]
        for file in files:
            if file.resolve() == self._endpoints_file.resolve():
                continue
            results = read_manifest(file)
            wrong = [each for each in results if isinstance(each, Problem)]
            problems += wrong
            if not wrong:
                self._good[file] = [each for each in results if isinstance(each, Parsed)]
        servers = read_endpoints(self._endpoints_file)
        if isinstance(servers, list):
            problems += servers
        else:
            self._servers = servers
        return problems

    def _inventory(self) -> Inventory:
        parsed = [each for file in sorted(self._good) for each in self._good[file]]
        self._tell_warnings(reference_warnings(parsed))
        objects: list[AnyObject] = [each.object for each in parsed]
        return Inventory(Resources.of(objects), self._servers)

    def _tell_problems(self, problems: Sequence[Problem]) -> None:
        """A problem is told when it appears, not at every look at the folder."""
        lines = {str(problem) for problem in problems}
        self._refused += bool(lines - self._problems)
        for line in sorted(lines - self._problems)[:MAX_LOGGED]:
            log.error("source.invalid", problem=line, kept="the last good state of this file")
        if self._problems and not lines:
            log.info("source.valid")
        self._problems = lines

    def _tell_warnings(self, warnings: Sequence[Problem]) -> None:
        lines = {str(warning) for warning in warnings}
        for line in sorted(lines - self._warnings)[:MAX_LOGGED]:
            log.warning("source.warning", problem=line)
        self._warnings = lines
