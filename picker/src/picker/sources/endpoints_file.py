"""The endpoints file: the model servers of a gateway without Kubernetes.

endpoints:
- name: qwen-0
  address: 127.0.0.1
  port: 8000
  labels: {app: qwen}
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from picker.resources.manifest_files import read_bounded
from picker.resources.problems import Location, Problem, field_path, unreadable, validation_errors
from picker.resources.wire import DnsName, Labels, Port, Wire
from picker.resources.yaml_documents import Document, documents
from picker.sources.inventory import ModelServer


def _ip(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("allowed is an IP address") from None


class EndpointLine(Wire):
    """One model server."""

    name: DnsName
    namespace: DnsName = "default"
    address: Annotated[str, AfterValidator(_ip)]
    port: Port | None = None
    labels: Labels = Field(default_factory=dict[str, str])


class EndpointsFile(Wire):
    endpoints: tuple[EndpointLine, ...]


def parse_endpoints(text: str, file: str) -> tuple[ModelServer, ...] | list[Problem]:
    """The model servers in `text`, or all problems in it. Never raises."""
    read = list(documents(text, file))
    if problems := [result for result in read if isinstance(result, Problem)]:
        return problems
    if len(read) != 1:
        return [Problem(file, None, None, None, f"found {len(read)} documents; allowed is one with `endpoints:`")]
    [document] = read
    assert not isinstance(document, Problem)
    try:
        lines = EndpointsFile.model_validate(document.value).endpoints
    except ValidationError as error:
        return [
            Problem(file, document.line_of(location), None, field_path(location) or None, message)
            for location, message in validation_errors(error, EndpointsFile)
        ]
    return _unique(lines, document)


def _unique(lines: tuple[EndpointLine, ...], document: Document) -> tuple[ModelServer, ...] | list[Problem]:
    problems: list[Problem] = []
    names: set[tuple[str, str]] = set()
    addresses: set[tuple[str, int | None]] = set()
    for index, line in enumerate(lines):
        if (line.namespace, line.name) in names:
            problems.append(_duplicate(document, ("endpoints", index, "name"), repr(line.name)))
        elif (line.address, line.port) in addresses:
            where = line.address if line.port is None else f"{line.address}:{line.port}"
            problems.append(_duplicate(document, ("endpoints", index, "address"), where))
        names.add((line.namespace, line.name))
        addresses.add((line.address, line.port))
    return problems or tuple(
        ModelServer(line.name, line.namespace, line.address, line.port, line.labels) for line in lines
    )


def _duplicate(document: Document, location: Location, what: str) -> Problem:
    message = f"found {what} a second time"
    return Problem(document.file, document.line_of(location), None, field_path(location), message)


def read_endpoints(file: Path) -> tuple[ModelServer, ...] | list[Problem]:
    """Parse `file`. A file that cannot be read yields a problem."""
    try:
        return parse_endpoints(read_bounded(file), str(file))
    except (OSError, UnicodeDecodeError) as error:
        return [unreadable(file, error)]
