"""A folder of manifests and an endpoints file, watched."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import Parsed
from picker.resources.problems import InvalidManifests, Problem
from picker.resources.references import reference_warnings
from picker.resources.validate import manifest_files, read_manifest
from picker.sources.changes import changes
from picker.sources.endpoints_file import read_endpoints
from picker.sources.inventory import Inventory, ModelServer

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
        watched = {self._folder, self._endpoints_file.parent}
        watch = awatch(
            *watched,
            debounce=DEBOUNCE_MS,
            step=DEBOUNCE_MS,
            rust_timeout=LOOK_AGAIN_MS,
            yield_on_timeout=True,
            recursive=True,
        )
        looked_again = False
        async for events in watch:
            if not events and looked_again:
                continue
            looked_again = True
            self._tell_problems(self._read())
            new = self._inventory()
            if new != current:
                for line in changes(current, new):
                    log.info("source.changed", change=line)
                current = new
                yield current

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
        for line in sorted(lines - self._problems):
            log.error("source.invalid", problem=line, kept="the last good state of this file")
        if self._problems and not lines:
            log.info("source.valid")
        self._problems = lines

    def _tell_warnings(self, warnings: Sequence[Problem]) -> None:
        lines = {str(warning) for warning in warnings}
        for line in sorted(lines - self._warnings):
            log.warning("source.warning", problem=line)
        self._warnings = lines
