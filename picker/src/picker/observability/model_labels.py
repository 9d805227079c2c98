"""Bounds the model names that metrics tell apart, in number and in bytes. Each is on some 200 lines of a page."""

from picker.bounded_text import shorten

MOST_UNDECLARED = 100
"""Models that no object declares and that have labels of their own: clients choose these names."""

UNDECLARED_BYTES = 24 << 10
"""Of lines for those, one line each: 100 names of 59 bytes, in both labels. A page grows by at most 5 MiB for them."""

DECLARED_BYTES = 64 << 10
"""Of lines for the models of objects: 315 names of 40 bytes, in both labels. A page grows by at most 14 MiB."""

LINE_BYTES = 128
"""Of a line besides the two names."""

OTHER = "other"
"""Label of all models that are too many."""


class ModelLabels:
    """Gives each model the labels that it is counted under."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._undeclared = 0
        self._undeclared_bytes = 0
        self._declared_bytes = 0

    def of(self, model: str, target: str, *, declared: bool) -> tuple[str, str]:
        """The labels of requests to `model` that are served as `target`; `OTHER` twice where there is no room.
        `declared`: whether an object names the model."""
        labels = _label(model), _label(target)
        if labels in self._known or not model:
            return labels
        size = LINE_BYTES + sum(map(_written_bytes, labels))
        if declared:
            if self._declared_bytes + size > DECLARED_BYTES:
                return OTHER, OTHER
            self._declared_bytes += size
        else:
            if self._undeclared >= MOST_UNDECLARED or self._undeclared_bytes + size > UNDECLARED_BYTES:
                return OTHER, OTHER
            self._undeclared += 1
            self._undeclared_bytes += size
        self._known.add(labels)
        return labels


def _label(name: str) -> str:
    """At most 256 characters, and none that UTF-8 does not have (half surrogates): one would end the whole page."""
    name = shorten(name)
    return name if name.isascii() else name.encode(errors="replace").decode()


def _written_bytes(label: str) -> int:
    """Of a label's value on a page, where three characters are escaped."""
    return len(label.encode()) + sum(map(label.count, '"\\\n'))
