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


class FolderSource:
    """See `inventory.Source`. A file that is wrong keeps what it last said rightly, the other files go on changing: one
    person's mistake does not hold up another's edit."""

    def __init__(self, folder: Path, endpoints_file: Path) -> None:
        self._folder = folder
        self._endpoints_file = endpoints_file
        self._good: dict[Path, list[Parsed]] = {}
        self._servers: tuple[ModelServer, ...] = ()
        self._told: set[str] = set()

    async def inventories(self) -> AsyncIterator[Inventory]:
        """Raises InvalidManifests when the folder is wrong from the start."""
        if problems := self._read():
            raise InvalidManifests(problems)
        current = self._inventory()
        yield current
        watched = {self._folder, self._endpoints_file.parent}
        async for _ in awatch(*watched, debounce=DEBOUNCE_MS, step=DEBOUNCE_MS, recursive=True):
            self._tell(self._read())
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
        self._tell_once(reference_warnings(parsed))
        objects: list[AnyObject] = [each.object for each in parsed]
        return Inventory(Resources.of(objects), self._servers)

    def _tell(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            log.error("source.invalid", problem=str(problem), kept="the last good state of this file")

    def _tell_once(self, warnings: Sequence[Problem]) -> None:
        """A warning is told when it appears, not at every look at the folder."""
        lines = {str(warning) for warning in warnings}
        for line in sorted(lines - self._told):
            log.warning("source.warning", problem=line)
        self._told = lines
