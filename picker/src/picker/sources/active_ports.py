"""The annotation of a pod that names those of its pool's target ports that serve requests."""

from collections.abc import Mapping
from dataclasses import dataclass

from picker.bounded_text import MAX_CHARACTERS, shorten

ANNOTATIONS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
"""Port numbers with commas, such as `8000,8001`. The second is the name of the Gateway API inference extension; it is
read where the first is missing."""


@dataclass(frozen=True, slots=True)
class ActivePorts:
    """What a pod's annotation says."""

    ports: frozenset[int] | None = None
    """None: all target ports. Empty: none, which keeps requests away from the pod."""
    ignored: str | None = None
    """What the annotation has besides port numbers, cut; None if it is valid."""


ALL_PORTS = ActivePorts()


def active_ports(annotations: Mapping[str, object]) -> ActivePorts:
    """Reads the annotation. Parts that are no port number are ignored, as at upstream. If none is one, or the text is
    longer than any list of a pool's eight ports, the whole annotation is ignored."""
    text = next((annotations[name] for name in ANNOTATIONS if name in annotations), None)
    if text is None:
        return ALL_PORTS
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return ActivePorts(None, shorten(str(text)))
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    ports = frozenset(int(part) for part in parts if _is_port(part))
    ignored = ",".join(part for part in parts if not _is_port(part)) or None
    return ActivePorts(ports if ports or not parts else None, ignored)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535
