"""Names of objects, and references between them."""

from dataclasses import dataclass

POOL_GROUP_V1 = "inference.networking.k8s.io"
POOL_GROUP_V1ALPHA2 = "inference.networking.x-k8s.io"
ROUTER_GROUP = "llm-d.ai"
"""The newer group of InferenceObjective and InferenceModelRewrite, which are also in POOL_GROUP_V1ALPHA2."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """A namespaced object. Its kind follows from the context."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "ObjectName":
        """The inverse of `str`. Raises ValueError unless `text` has two non-empty parts."""
        return cls(*_parts(text, "NAMESPACE/NAME"))


@dataclass(frozen=True, slots=True, order=True)
class PoolName:
    """An InferencePool. Its API group is part of its identity: a v1 and a v1alpha2 pool may have the same name."""

    group: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """The form that Envoy and the picker exchange: `GROUP/NAMESPACE/NAME`."""
        return f"{self.group}/{self.namespace}/{self.name}"

    @property
    def label(self) -> str:
        """NAMESPACE/NAME, as settings, metrics and logs name the pool."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "PoolName":
        """The inverse of `str`. Raises ValueError unless `text` has three non-empty parts."""
        return cls(*_parts(text, "GROUP/NAMESPACE/NAME"))


def _parts(text: str, form: str) -> list[str]:
    """The parts of `text`, as many as `form` has, none of them empty. Raises ValueError."""
    parts = text.split("/")
    if len(parts) != len(form.split("/")) or not all(parts):
        raise ValueError(f"{text!r} is not {form}")
    return parts
