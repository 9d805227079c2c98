"""Scenario files: fleet, workload and disturbances. Unknown keys are rejected."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from picker.endpoints.metrics.schedule import ScrapeIntervals
from picker.resources.inference import Criticality
from pydantic import Field, ValidationError
from vllm_mock.engine.speed import CARDS

from simulator.workload.distributions import Distribution, Schema


class InvalidScenario(Exception):
    """A scenario file is invalid. The message has a line for each problem."""


class Replicas(Schema):
    """Replicas of a fleet with the same card."""

    card: str = Field("a10", description=f"one of {', '.join(CARDS)}")
    count: int = Field(gt=0)
    slowdown: float = Field(1.0, gt=0, description="factor of the card's step times, from the start")
    cache: float = Field(1.0, gt=0, description="factor of the card's KV cache")


class Poisson(Schema):
    """Open loop: sessions arrive at random, independent of the end of others."""

    kind: Literal["poisson"]
    rate_per_s: float = Field(gt=0)


class Bursts(Schema):
    """Open loop: Poisson arrivals with two alternating rates, each for an exponentially distributed time."""

    kind: Literal["bursts"]
    on_rate_per_s: float = Field(gt=0)
    off_rate_per_s: float = Field(ge=0)
    on_s: float = Field(gt=0)
    off_s: float = Field(gt=0)


class Closed(Schema):
    """Closed loop: each client sends its next request as soon as it has its response. Clients start within `ramp_s`."""

    kind: Literal["closed"]
    clients: int = Field(gt=0)
    ramp_s: float = Field(5.0, ge=0)


Arrivals = Annotated[Poisson | Bursts | Closed, Field(discriminator="kind")]


class Prefixes(Schema):
    """Shared prefixes of prompts, drawn by Zipf's law."""

    count: int = Field(gt=0)
    tokens: Distribution
    zipf: float = Field(0.0, ge=0, description="exponent; 0 draws all with equal probability")
    share: float = Field(1.0, gt=0, le=1, description="share of the sessions that begin with a prefix")


class Turns(Schema):
    """Sessions of several requests. Each prompt consists of the previous prompt, its answer and new text."""

    count: Distribution
    think_s: Distribution
    input_tokens: Distribution


class Loras(Schema):
    """LoRA adapters that requests name, drawn by Zipf's law."""

    count: int = Field(gt=0)
    zipf: float = Field(0.0, ge=0)


class Generated(Schema):
    """A workload of requests that are drawn at random."""

    kind: Literal["generated"]
    arrivals: Arrivals
    input_tokens: Distribution
    output_tokens: Distribution
    prefixes: Prefixes | None = None
    turns: Turns | None = None
    loras: Loras | None = None
    criticality: dict[Criticality, float] = Field({Criticality.STANDARD: 1.0}, description="weights")
    max_tokens: int | None = Field(
        None, description="the limit that clients send; without it they send the exact length of the answer"
    )


class Trace(Schema):
    """Requests of a recorded trace."""

    kind: Literal["trace"]
    format: Literal["mooncake", "azure"]
    path: Path = Field(description="relative to the traces folder")
    speed: float = Field(1.0, gt=0, description="2: two seconds of the trace pass in one")
    start: int = Field(0, ge=0, description="number of requests skipped at the beginning of the trace")
    max_input_tokens: int = Field(gt=0, description="longer prompts are cut to this; a server would reject them")


Workload = Annotated[Generated | Trace, Field(discriminator="kind")]


class Slow(Schema):
    """A replica's steps take `factor` times as long, from `at_s` until `until_s`."""

    kind: Literal["slow"]
    at_s: float = Field(ge=0)
    replica: int = Field(ge=0)
    factor: float = Field(gt=0)
    until_s: float | None = None


class Die(Schema):
    """A replica crashes with all its requests. After `down_s` a new one with an empty cache replaces it."""

    kind: Literal["die"]
    at_s: float = Field(ge=0)
    replica: int = Field(ge=0)
    noticed_s: float = Field(
        3.0, ge=0, description="time until it leaves the endpoints; connections are refused meanwhile"
    )
    down_s: float = Field(30.0, ge=0)


class RollingRestart(Schema):
    """Each replica in turn leaves the endpoints, finishes its requests, and returns with an empty cache."""

    kind: Literal["rolling-restart"]
    at_s: float = Field(ge=0)
    down_s: float = Field(10.0, ge=0, description="time between its end and its return")
    drain_s: float = Field(30.0, ge=0, description="time after which remaining requests are aborted")


class Join(Schema):
    """A replica joins the fleet."""

    kind: Literal["join"]
    at_s: float = Field(ge=0)
    card: str = "a10"


Disturbance = Annotated[Slow | Die | RollingRestart | Join, Field(discriminator="kind")]


class Scrapes(Schema):
    """Intervals between scrapes follow from the pages, by the picker's own schedule."""

    interval_s: float = Field(0.2, gt=0, description="the shortest interval")
    max_interval_s: float = Field(1.0, gt=0, description="the longest interval")
    page_s: float = Field(
        0.0003, ge=0, description="a server's time for a page: 0.01 to 0.03 of a vLLM, the default of a mock"
    )
    delay_s: float = Field(
        0.01, ge=0, description="time between the reading at the server and the arrival at the picker"
    )

    @property
    def intervals(self) -> ScrapeIntervals:
        return ScrapeIntervals(self.interval_s, self.max_interval_s)


class Slo(Schema):
    """Upper bounds of a good request. Goodput counts only good requests."""

    ttft_s: float = Field(gt=0)
    tpot_s: float = Field(gt=0)


class Scenario(Schema):
    name: str
    description: str
    fleet: tuple[Replicas, ...] = Field(min_length=1)
    workload: Workload
    duration_s: float = Field(gt=0, description="end of the arrivals")
    warmup_s: float = Field(ge=0, description="requests that arrive before are not measured")
    slo: Slo
    disturbances: tuple[Disturbance, ...] = ()
    pickers: int = Field(1, gt=0, description="number of pickers; each request goes to a random one")
    exchange_s: float | None = Field(
        None, gt=0, description="minimum seconds between two reports of a picker to the others; unset, there are none"
    )
    takeover_s: float | None = Field(
        None, ge=0, description="all requests go to the first picker until then, and to the second from then on"
    )
    scrapes: Scrapes = Scrapes()  # pyright: ignore[reportCallIssue]
    network_s: float = Field(0.001, ge=0, description="one-way delay between picker, server and client")
    estimate_error: float = Field(
        0.1, ge=0, description="sigma of the log error of the picker's estimate of a prompt's tokens"
    )
    max_loras: int = Field(4, gt=0, description="maximum number of adapters that a replica runs at once")

    def scraped_every(self, interval_s: float) -> "Scenario":
        """This scenario with a constant scrape interval, which must be above 0."""
        return self._scraped(interval_s=interval_s, max_interval_s=interval_s)

    def scraped_at_cost(self, page_s: float) -> "Scenario":
        """This scenario with servers that take `page_s` for a page."""
        return self._scraped(page_s=page_s)

    def _scraped(self, **changes: float) -> "Scenario":
        return self.model_copy(update={"scrapes": self.scrapes.model_copy(update=changes)})


Description = TypeVar("Description", bound=Schema)


def read_scenario(path: Path) -> Scenario:
    """Reads a scenario file. Raises InvalidScenario, OSError."""
    return read_description(path, Scenario)


def read_description(path: Path, schema: type[Description]) -> Description:
    """Reads a YAML file of a schema. Raises InvalidScenario, OSError."""
    try:
        document: object = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InvalidScenario(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise InvalidScenario(f"{path}: a {schema.__name__.lower()} is a mapping, found {type(document).__name__}")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}, found {str(problem['input'])[:60]}"
            for problem in error.errors()
        )
        raise InvalidScenario("\n".join(lines)) from None
