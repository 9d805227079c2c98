"""Reads a folder of manifests and an endpoints file, and watches both."""

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
"""Pause after a failed watch."""

MAX_LOGGED = 100
"""Limit on the problems logged for one read of the files. Judgement: users correct fewer at once."""

log = structlog.get_logger(__name__)

DEBOUNCE_MS = 50
"""An editor's save is several file events. They are handled at once, and the edit still takes effect quickly."""

REREAD_MS = 500
"""Delay of a second read after the start of a watch: the watch does not report an edit before its start."""


class FolderSource:
    """See `inventory.Source`. An invalid file keeps its last valid objects, and other files continue to be applied. So
    one user's error does not block another user's edit."""

    def __init__(self, folder: Path, endpoints_file: Path) -> None:
        self._folder = folder
        self._endpoints_file = endpoints_file
        self._valid: dict[Path, list[Parsed]] = {}
        self._servers: tuple[ModelServer, ...] = ()
        self._problems: set[str] = set()
        self._warnings: set[str] = set()
        self._refused = 0

    @property
    def refused(self) -> int:
        return self._refused

    async def inventories(self) -> AsyncIterator[Inventory]:
        """See `inventory.Source`. Raises InvalidManifests if the folder is invalid at the start."""
        if problems := self._read():
            raise InvalidManifests(problems)
        current = self._inventory()
        yield current
        async with aclosing(self._changes()) as events:
            async for _ in events:
                # In a thread: requests are served while files are read.
                self._log_problems(await asyncio.to_thread(self._read))
                new = await asyncio.to_thread(self._inventory)
                if new != current:
                    for line in changes(current, new):
                        log.info("source.changed", change=line)
                    current = new
                    yield current

    async def _changes(self) -> AsyncGenerator[None]:
        """Yields whenever the files must be read again. Restarts a watch that has failed, or whose folder was
        replaced."""
        failed = ""
        while True:
            watched = self._watched_folders()
            try:
                read_again = False
                async with aclosing(self._watch()) as watch:
                    async for events in watch:
                        if watched != self._watched_folders():
                            break
                        if not events and read_again:
                            continue
                        read_again = True
                        yield
            except (OSError, RuntimeError, ExceptionGroup) as error:
                # watchfiles raises errors in groups, for example for file names that are not UTF-8.
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
            rust_timeout=REREAD_MS,
            yield_on_timeout=True,
            recursive=True,
        )

    def _watched_folders(self) -> Sequence[tuple[int, int] | None]:
        """The identities of the watched folders. None for a missing one."""

        def identity(folder: Path) -> tuple[int, int] | None:
            try:
                found = folder.stat()
            except OSError:
                return None
            return found.st_dev, found.st_ino

        return [identity(folder) for folder in (self._folder, self._endpoints_file.parent)]

    def _read(self) -> Sequence[Problem]:
        """Apply all valid files. Returns the problems of the others."""
        problems: list[Problem] = []
        if not self._folder.is_dir():
            return [Problem(str(self._folder), None, None, None, "is not a folder")]
        files = list(manifest_files([self._folder]))
        for removed in self._valid.keys() - set(files):
            del self._valid[removed]
        for file in files:
            if file.resolve() == self._endpoints_file.resolve():
                continue
            results = read_manifest(file)
            wrong = [result for result in results if isinstance(result, Problem)]
            problems += wrong
            if not wrong:
                self._valid[file] = [result for result in results if isinstance(result, Parsed)]
        servers = read_endpoints(self._endpoints_file)
        if isinstance(servers, list):
            problems += servers
        else:
            self._servers = servers
        return problems

    def _inventory(self) -> Inventory:
        parsed = [item for file in sorted(self._valid) for item in self._valid[file]]
        self._log_warnings(reference_warnings(parsed))
        objects: list[AnyObject] = [item.object for item in parsed]
        return Inventory(Resources.of(objects), self._servers)

    def _log_problems(self, problems: Sequence[Problem]) -> None:
        """Log a problem when it appears, and not again with each read."""
        lines = {str(problem) for problem in problems}
        self._refused += bool(lines - self._problems)
        for line in sorted(lines - self._problems)[:MAX_LOGGED]:
            log.error("source.invalid", problem=line, kept="the last valid state of this file")
        if self._problems and not lines:
            log.info("source.valid")
        self._problems = lines

    def _log_warnings(self, warnings: Sequence[Problem]) -> None:
        lines = {str(warning) for warning in warnings}
        for line in sorted(lines - self._warnings)[:MAX_LOGGED]:
            log.warning("source.warning", problem=line)
        self._warnings = lines
