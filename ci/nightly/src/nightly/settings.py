"""The settings of the nightly job, read from a YAML file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

HISTORY = "history"
"""Folder of the histories, in `keep` and in the bucket. All runs share it."""


class BadSettings(Exception):
    """The file cannot be read, or a value is not allowed. The message names the file and the field."""


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A comparison of both ports under one load."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]+$")]
    """Name of its files. A comparison is judged by earlier ones with the same name and load."""
    strategy: Literal["DEFAULT", "PREFIX_CACHE", "LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]
    load: str
    """Flags of `benchmark-serving compare`, in shell syntax."""
    about: str = ""
    """A paragraph of the report: what the load is, and what it shows."""

    @property
    def title(self) -> str:
        """The title of its report."""
        return f"{self.name}: {self.strategy}"


class Settings(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The settings of the job. Times are in seconds."""

    comparisons: Annotated[tuple[Comparison, ...], msgspec.Meta(min_length=1)]
    namespace: Annotated[str, msgspec.Meta(pattern="^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")] = "inference-gateway-night"
    """Namespace of the run, deleted afterwards with all its objects. It is also the name of the release, of the
    GatewayClass and of the controller."""
    values: tuple[str, ...] = ()
    """Values files of the chart, in order."""
    objects: tuple[str, ...] = ()
    """Files of additional objects, such as a Deployment of servers of another card with the label app: qwen."""
    chart: str = "charts/inference-gateway"
    keep: str = "out/nightly"
    """Folder of the reports and their history, usually on a volume."""
    bucket: Annotated[str, msgspec.Meta(pattern="^(s3://[^/]+(/.*)?)?$")] = ""
    """s3://BUCKET/PREFIX. The history is fetched from it before the run, and reports are stored in it afterwards."""
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 4
    ready_timeout_s: Annotated[int, msgspec.Meta(gt=0)] = 3600
    """Time until the servers have loaded the model. Judgement: a 7B model takes minutes from a warm volume, and an hour
    from a cold one."""
    compare_timeout_s: Annotated[int, msgspec.Meta(gt=0)] = 4 * 3600
    """Time of one comparison."""


def read_settings(path: Path) -> Settings:
    """Reads the settings. Raises BadSettings."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError) as error:
        raise BadSettings(f"{path}: {error}") from None
