"""Metric families: vLLM's names and the values that they show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.values import Values

Read = Callable[[Values], float]
Bounds = Sequence[float] | Callable[[int], Sequence[float]]
"""Upper bounds of a histogram's buckets, or a function from `max_model_len` to them."""


class Common(Enum):
    """Labels that all samples of a family share."""

    ENGINE = ("engine", "model_name")
    MODEL = ("model_name",)
    NONE = ()


@dataclass(frozen=True, slots=True)
class Series:
    """One sample of a family, with the labels that distinguish it from the family's others."""

    read: Read
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Scalars:
    """A gauge or a counter."""

    name: str
    """Name on the page. A counter's ends with `_total`."""
    kind: str
    text: str
    series: tuple[Series, ...]
    common: Common = Common.ENGINE
    only_counted: bool = False
    """Whether a series is absent while its value is 0."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram of `Values.histograms`."""

    name: str
    text: str
    histogram: str
    bounds: Bounds
    common: Common = Common.ENGINE


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """`vllm:cache_config_info`: settings as labels."""

    labels: Callable[["CacheSettings"], dict[str, str]]
    with_engine: bool = True


@dataclass(frozen=True, slots=True)
class Adapters:
    """`vllm:lora_requests_info`, which only servers with LoRA have."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Settings that `vllm:cache_config_info` shows."""

    block_size: int
    num_gpu_blocks: int
    enable_prefix_caching: bool
    max_model_len: int


Family = Scalars | Buckets | CacheConfig | Adapters


@dataclass(frozen=True, slots=True)
class Profile:
    """The families of one generation of vLLM."""

    families: tuple[Family, ...]
    created: bool = True
    """Whether counters and histograms have `_created` families."""
    throughput_interval_s: float | None = None
    """Interval of `avg_*_throughput_toks_per_s`. None if the profile lacks them."""


def gauge(name: str, text: str, read: Read | str, common: Common = Common.ENGINE) -> Scalars:
    return Scalars(f"vllm:{name}", "gauge", text, (Series(_reader(read)),), common)


def counter(name: str, text: str, read: Read | str, common: Common = Common.ENGINE) -> Scalars:
    return Scalars(f"vllm:{name}_total", "counter", text, (Series(_reader(read)),), common)


def labelled(
    kind: str, name: str, text: str, label: str, reads: dict[str, Read | str], common: Common = Common.ENGINE
) -> Scalars:
    """A family with one series for each value of `label`, in the order of `reads`."""
    series = tuple(Series(_reader(read), ((label, value),)) for value, read in reads.items())
    return Scalars(f"vllm:{name}", kind, text, series, common)


def success(reasons: Sequence[FinishReason], common: Common = Common.ENGINE, only_counted: bool = False) -> Scalars:
    series = tuple(Series(_finished(reason), (("finished_reason", reason.value),)) for reason in reasons)
    return Scalars(
        "vllm:request_success_total", "counter", "Finished requests, by reason.", series, common, only_counted
    )


def constant(value: float) -> Read:
    return lambda _: value


def _reader(read: Read | str) -> Read:
    return attrgetter(read) if isinstance(read, str) else read


def _finished(reason: FinishReason) -> Read:
    return lambda values: values.success[reason]
