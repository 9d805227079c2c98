"""A scenario file: fleet, load, disturbances. Unknown keys are refused."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from picker.resources.inference import Criticality
from pydantic import Field, ValidationError
from vllm_mock.engine.speed import CARDS

from simulator.workload.distributions import Distribution, Schema


class InvalidScenario(Exception):
    """A scenario that cannot be run; the message has a line for each problem."""


class Replicas(Schema):
    """Equal replicas of a fleet."""

    card: str = Field("a10", description=f"one of {', '.join(CARDS)}")
    count: int = Field(gt=0)
    slowdown: float = Field(1.0, gt=0, description="times the card's step times, from the start")


class Poisson(Schema):
    """Open loop: sessions start at random, whether or not others have ended."""

    kind: Literal["poisson"]
    rate_per_s: float = Field(gt=0)


class Bursts(Schema):
    """Open loop: Poisson with two rates that take turns, each for exponentially distributed times."""

    kind: Literal["bursts"]
    on_rate_per_s: float = Field(gt=0)
    off_rate_per_s: float = Field(ge=0)
    on_s: float = Field(gt=0)
    off_s: float = Field(gt=0)


class Closed(Schema):
    """Closed loop: clients that ask again as soon as they have their answer. They start one after the other within
    `ramp_s`."""

    kind: Literal["closed"]
    clients: int = Field(gt=0)
    ramp_s: float = Field(5.0, ge=0)


Arrivals = Annotated[Poisson | Bursts | Closed, Field(discriminator="kind")]


class Prefixes(Schema):
    """Texts that prompts begin with, drawn by Zipf's law."""

    count: int = Field(gt=0)
    tokens: Distribution
    zipf: float = Field(0.0, ge=0, description="exponent; 0 draws all alike")
    share: float = Field(1.0, gt=0, le=1, description="of the sessions that begin with one")


class Turns(Schema):
    """A session of several requests: each prompt is the one before, its answer, and new text."""

    count: Distribution
    think_s: Distribution
    input_tokens: Distribution


class Loras(Schema):
    """Adapters that requests ask for, drawn by Zipf's law."""

    count: int = Field(gt=0)
    zipf: float = Field(0.0, ge=0)


class Generated(Schema):
    """Requests drawn at random."""

    kind: Literal["generated"]
    arrivals: Arrivals
    input_tokens: Distribution
    output_tokens: Distribution
    prefixes: Prefixes | None = None
    turns: Turns | None = None
    loras: Loras | None = None
    criticality: dict[Criticality, float] = Field({Criticality.STANDARD: 1.0}, description="weights")
    max_tokens: int | None = Field(
        None, description="the limit that clients send; without it they send the very length of the answer"
    )


class Trace(Schema):
    """Requests of a recorded service."""

    kind: Literal["trace"]
    format: Literal["mooncake", "azure"]
    path: Path = Field(description="relative to the traces folder")
    speed: float = Field(1.0, gt=0, description="2: two seconds of the trace pass in one")
    start: int = Field(0, ge=0, description="requests of the trace that are left out")
    max_input_tokens: int = Field(gt=0, description="longer prompts are cut to this, as a server would refuse them")


Workload = Annotated[Generated | Trace, Field(discriminator="kind")]


class Slow(Schema):
    """A replica's steps take `factor` times as long, until `until_s`."""

    kind: Literal["slow"]
    at_s: float = Field(ge=0)
    replica: int = Field(ge=0)
    factor: float = Field(gt=0)
    until_s: float | None = None


class Die(Schema):
    """A replica is gone with all that it was doing; a new one takes its place after `down_s`, with an empty cache."""

    kind: Literal["die"]
    at_s: float = Field(ge=0)
    replica: int = Field(ge=0)
    noticed_s: float = Field(3.0, ge=0, description="until it leaves the endpoints; till then connections are refused")
    down_s: float = Field(30.0, ge=0)


class RollingRestart(Schema):
    """One replica after the other leaves the endpoints, finishes what it has, and comes back with an empty cache."""

    kind: Literal["rolling-restart"]
    at_s: float = Field(ge=0)
    down_s: float = Field(10.0, ge=0, description="from its end to its coming back")
    drain_s: float = Field(30.0, ge=0, description="after which what is left is cut off")


class Join(Schema):
    """A replica more."""

    kind: Literal["join"]
    at_s: float = Field(ge=0)
    card: str = "a10"


Disturbance = Annotated[Slow | Die | RollingRestart | Join, Field(discriminator="kind")]


class Scrapes(Schema):
    interval_s: float = Field(0.2, gt=0)
    delay_s: float = Field(0.01, ge=0, description="from the server's numbers to the picker's knowing them")
    jitter: float = Field(0.1, ge=0, lt=1, description="share of the interval by which it varies")


class Slo(Schema):
    """What a good answer keeps to; goodput counts those alone."""

    ttft_s: float = Field(gt=0)
    tpot_s: float = Field(gt=0)


class Scenario(Schema):
    name: str
    description: str
    fleet: tuple[Replicas, ...] = Field(min_length=1)
    workload: Workload
    duration_s: float = Field(gt=0, description="requests arrive until then")
    warmup_s: float = Field(ge=0, description="requests that arrive before are not counted")
    slo: Slo
    disturbances: tuple[Disturbance, ...] = ()
    pickers: int = Field(1, gt=0, description="that share nothing; requests fall to them at random")
    scrapes: Scrapes = Scrapes()  # pyright: ignore[reportCallIssue]
    network_s: float = Field(0.001, ge=0, description="one way between picker, server and client")
    estimate_error: float = Field(
        0.1, ge=0, description="sigma of the picker's estimate of a prompt's tokens, log scale"
    )
    max_loras: int = Field(4, gt=0, description="adapters that a replica runs at once")

    def scraped_every(self, interval_s: float) -> "Scenario":
        """The same with another interval, which is above 0."""
        return self.model_copy(update={"scrapes": self.scrapes.model_copy(update={"interval_s": interval_s})})


def read_scenario(path: Path) -> Scenario:
    """Raises InvalidScenario, OSError."""
    try:
        document: object = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InvalidScenario(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise InvalidScenario(f"{path}: a scenario is a mapping, found {type(document).__name__}")
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}, found {str(each['input'])[:60]}"
            for each in error.errors()
        )
        raise InvalidScenario("\n".join(lines)) from None
