"""Read files and folders of manifests and report on every object: what `picker validate` shows."""

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
    """What was read, in the order of the files."""

    results: tuple[Parsed | Skipped | Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(each for each in self.results if isinstance(each, Problem))

    def lines(self) -> Iterator[str]:
        """A line for each object and problem, and one that counts them."""
        for each in self.results:
            match each:
                case Parsed():
                    yield f"ok       {each.title}  ({printable(each.file)})"
                case Skipped():
                    yield f"skipped  {each.title}  ({printable(each.file)}; not an object of the gateway)"
                case Problem():
                    yield f"error    {each}"
        for warning in self.warnings:
            yield f"warning  {warning}"
        good = sum(isinstance(each, Parsed) for each in self.results)
        counts = ((good, "object", " ok"), (len(self.problems), "error", ""), (len(self.warnings), "warning", ""))
        yield ", ".join(f"{count} {what}{'' if count == 1 else 's'}{more}" for count, what, more in counts)


def manifest_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The YAML files among `paths`, folders walked, in a stable order. What is hidden is left out, folders too: a
    ConfigMap's volume keeps its files in one and links to them."""
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
    """Parse one file; a file that cannot be read is a problem like any other."""
    try:
        text = read_bounded(file)
    except (OSError, UnicodeDecodeError) as error:
        return [unreadable(file, error)]
    return parse(text, str(file))


def validate_files(paths: Iterable[Path]) -> Report:
    """Read everything under `paths`."""
    results = [each for file in manifest_files(paths) for each in read_manifest(file)]
    return Report(tuple(results), tuple(reference_warnings([each for each in results if isinstance(each, Parsed)])))
