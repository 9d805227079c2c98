"""What a night is told, by a YAML file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

HISTORY = "history"
"""Folder in the kept one, of all nights; it has the same name in a bucket."""


class BadSettings(Exception):
    """The file cannot be read or says what is not allowed; the message names the field."""


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both ports under one load."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]+$")]
    """Of its files. A comparison is judged by earlier ones of the same name and load."""
    strategy: Literal["DEFAULT", "PREFIX_CACHE", "LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]
    load: str
    """Flags of `benchmark-serving compare`, as one would type them."""
    about: str = ""
    """What the load is like and what it is to show: a paragraph of the report."""

    @property
    def title(self) -> str:
        """Of its report."""
        return f"{self.name}: {self.strategy}"


class Settings(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Times are in seconds."""

    comparisons: Annotated[tuple[Comparison, ...], msgspec.Meta(min_length=1)]
    namespace: Annotated[str, msgspec.Meta(pattern="^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")] = "inference-gateway-night"
    """Made for the night and deleted after it, whatever is in it. Also the release's name, of which others are made."""
    values: tuple[str, ...] = ()
    """Values files for the chart, in order."""
    objects: tuple[str, ...] = ()
    """Files of more objects for the namespace: a Deployment of servers of another card, say, labelled app: qwen."""
    chart: str = "charts/inference-gateway"
    keep: str = "out/nightly"
    """Folder for the reports and their history: a volume."""
    bucket: Annotated[str, msgspec.Meta(pattern="^(s3://[^/]+(/.*)?)?$")] = ""
    """s3://BUCKET/PREFIX: the history is fetched from there before the night, the reports put there after it."""
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 4
    ready_timeout_s: Annotated[int, msgspec.Meta(gt=0)] = 3600
    """Until the servers have loaded the model: a 7B model takes minutes from a warm volume, an hour from a cold one."""
    compare_timeout_s: Annotated[int, msgspec.Meta(gt=0)] = 4 * 3600
    """Of one comparison."""


def read_settings(path: Path) -> Settings:
    """Raises BadSettings."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError) as error:
        raise BadSettings(f"{path}: {error}") from None
