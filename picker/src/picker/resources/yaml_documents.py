"""Parses YAML text to documents with the line of each field."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import yaml

from picker.bounded_text import shorten
from picker.resources.problems import Location, Problem


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its plain value, and the node that it was constructed from."""

    file: str
    value: object
    node: yaml.Node

    def line_of(self, location: Location) -> int:
        """The line (from 1) of the field at `location`, or of the innermost existing field around it."""
        node = self.node
        line = node.start_mark.line
        for part in location:
            found = _child(node, part)
            if found is None:
                break
            line, node = found
        return line + 1

    def items(self, key: str) -> "Sequence[Document]":
        """The entries of the list at `key`, which must be a list, each as a document with its own lines."""
        values = cast("Mapping[str, Sequence[object]]", self.value)[key]
        found = _child(self.node, key)
        assert found is not None
        return [Document(self.file, value, node) for value, node in zip(values, found[1].value, strict=True)]


def _child(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys. YAML forbids them, and PyYAML would use the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is written twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# A timestamp is text in all objects here. As a date it would have the wrong type.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


MAX_NUMBER_CHARACTERS = 64
"""Limit on the characters of a number. Those of the API have at most 20. Longer ones cost time, and Python does not
print them."""

MAX_ALIASED_NODES = 10_000
"""Limit on the values that the aliases of a document repeat. Judgement: users repeat labels and containers."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

_NOT_CONSTRUCTED = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors that PyYAML raises for values that do not match their tag."""


def documents(text: str, file: str) -> Iterator[Document | Problem]:
    """The documents of `text` that are not empty. Nothing is read after a problem."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        yield _not_yaml(error, file)
        return
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            _check(node)
            value: object = loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
            if value is not None:
                yield Document(file, value, node)
    except _NOT_CONSTRUCTED as error:
        yield _not_yaml(error, file)
    finally:
        loader.dispose()


def _check(document: yaml.Node) -> None:
    """Raises ConstructorError for a document that is much larger with its aliases expanded, and for text and numbers
    that Python cannot encode."""
    # By identity: the number of nodes in a node's expanded subtree. None while it is being counted.
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise _error(node, "an alias refers to a node that contains it")
            return known
        sizes[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        sizes[id(node)] = total = 1 + sum(map(size, _children(node)))
        return total

    if size(document) - len(sizes) > MAX_ALIASED_NODES:
        raise _error(document, f"aliases repeat more than {MAX_ALIASED_NODES} values")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER_CHARACTERS:
        raise _error(node, f"a number has more than {MAX_NUMBER_CHARACTERS} characters")
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise _error(node, "text with an unpaired surrogate") from None


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


def _not_yaml(error: Exception, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    if "'\\t'" in what:
        what = "found a tab; allowed for indenting are spaces"
    return Problem(file, mark.line + 1 if mark is not None else None, None, None, f"not YAML: {shorten(what)}")
