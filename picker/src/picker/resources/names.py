"""How objects are named and how one refers to another."""

from dataclasses import dataclass

POOL_GROUP_V1 = "inference.networking.k8s.io"
POOL_GROUP_V1ALPHA2 = "inference.networking.x-k8s.io"
ROUTER_GROUP = "llm-d.ai"
"""Where InferenceObjective and InferenceModelRewrite moved to from POOL_GROUP_V1ALPHA2."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """A namespaced object whose kind the context tells."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "ObjectName":
        """The inverse of `str`. Raises ValueError on anything but two non-empty parts."""
        return cls(*_parts(text, "NAMESPACE/NAME"))


@dataclass(frozen=True, slots=True, order=True)
class PoolName:
    """An InferencePool. Its API group is part of its identity: a v1 and a v1alpha2 pool may share a name."""

    group: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """The form that travels between Envoy and the picker: `GROUP/NAMESPACE/NAME`."""
        return f"{self.group}/{self.namespace}/{self.name}"

    @property
    def label(self) -> str:
        """NAMESPACE/NAME, as settings, metrics and logs name the pool."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "PoolName":
        """The inverse of `str`. Raises ValueError on anything but three non-empty parts."""
        return cls(*_parts(text, "GROUP/NAMESPACE/NAME"))


def _parts(text: str, form: str) -> list[str]:
    """As many as the form has, none of them empty. Raises ValueError."""
    parts = text.split("/")
    if len(parts) != len(form.split("/")) or not all(parts):
        raise ValueError(f"{text!r} is not {form}")
    return parts
