"""Reads files and folders of manifests and reports on every object: the output of `picker validate`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from picker.printable import printable
from picker.resources.manifest_files import read_bounded
from picker.resources.parse import Parsed, Skipped, parse
from picker.resources.problems import Problem, unreadable
from picker.resources.references import reference_warnings

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Report:
    """The results in the order of the files."""

    results: tuple[Parsed | Skipped | Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(result for result in self.results if isinstance(result, Problem))

    def lines(self) -> Iterator[str]:
        """A line for each object and problem, and one with their numbers."""
        for result in self.results:
            match result:
                case Parsed():
                    yield f"ok       {result.title}  ({printable(result.file)})"
                case Skipped():
                    yield f"skipped  {result.title}  ({printable(result.file)}; not an object of the gateway)"
                case Problem():
                    yield f"error    {result}"
        for warning in self.warnings:
            yield f"warning  {warning}"
        good = sum(isinstance(result, Parsed) for result in self.results)
        counts = ((good, "object", " ok"), (len(self.problems), "error", ""), (len(self.warnings), "warning", ""))
        yield ", ".join(f"{count} {what}{'' if count == 1 else 's'}{more}" for count, what, more in counts)


def manifest_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The YAML files among `paths` and in their folders, in a stable order. Hidden files and folders are left out: a
    ConfigMap's volume has its files in a hidden folder, and links to them."""
    for path in paths:
        if path.is_dir():
            yield from sorted(
                file
                for file in path.rglob("*")
                if file.suffix in SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
            )
        else:
            yield path


def read_manifest(file: Path) -> list[Parsed | Skipped | Problem]:
    """Parse one file. A file that cannot be read yields a problem."""
    try:
        text = read_bounded(file)
    except (OSError, UnicodeDecodeError) as error:
        return [unreadable(file, error)]
    return parse(text, str(file))


def validate_files(paths: Iterable[Path]) -> Report:
    """Read all manifests under `paths`."""
    results = [result for file in manifest_files(paths) for result in read_manifest(file)]
    return Report(tuple(results), tuple(reference_warnings([item for item in results if isinstance(item, Parsed)])))
