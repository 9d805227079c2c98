"""Limits the model names in metric labels, in number and in bytes. Each is on some 290 lines of a page."""

from picker.bounded_text import shorten

MOST_UNDECLARED = 100
"""Models without an object that have their own labels. Clients choose these names. Judgement."""

UNDECLARED_BYTES = 24 << 10
"""Of lines for those models, one line each: 100 names of 59 bytes, in both labels. They add at most 8 MiB to a page.
Judgement."""

DECLARED_BYTES = 64 << 10
"""Of lines for models with an object, one line each: 315 names of 40 bytes, in both labels. They add at most 20 MiB to
a page. Judgement."""

LINE_BYTES = 128
"""Of a line without the two names."""

OTHER = "other"
"""Label of all models beyond the limits."""


class ModelLabels:
    """Assigns labels to models."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._undeclared = 0
        self._undeclared_bytes = 0
        self._declared_bytes = 0

    def of(self, model: str, target: str, *, declared: bool) -> tuple[str, str]:
        """Returns the labels of requests to `model` that are served as `target`; `OTHER` twice beyond the limits.
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
    """A name of at most 256 characters without lone surrogates, which UTF-8 cannot encode: one would fail the page."""
    name = shorten(name)
    return name if name.isascii() else name.encode(errors="replace").decode()


def _written_bytes(label: str) -> int:
    """The length of a label's value on a page, where three characters are escaped."""
    return len(label.encode()) + sum(map(label.count, '"\\\n'))
