"""The description file of the matrix, and its scenarios. Unknown keys are rejected."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from math import sqrt
from pathlib import Path
from typing import Annotated, Literal

from picker.resources.inference import Criticality
from pydantic import Field
from vllm_mock.engine.speed import CARDS

from simulator.matrix.capacity import FleetCapacity
from simulator.matrix.scaling import scaled_lengths
from simulator.workload.distributions import Distribution, Exponential, Fixed, Schema
from simulator.workload.scenario import (
    Arrivals,
    Bursts,
    Closed,
    Generated,
    InvalidScenario,
    Poisson,
    Prefixes,
    Replicas,
    Scenario,
    Slo,
    Turns,
    read_description,
)

REFERENCE_KV_TOKENS = CARDS["a10"].kv_tokens
"""The KV cache for which a shape gives its lengths."""

MEASURED_REQUESTS = 500
"""Least number of requests that arrive after the warm-up. Judgement: p90 then rests on 50 of them."""

WARMUP_RESIDENCES, MEASURED_RESIDENCES = 1.5, 2.5
"""Least warm-up and measured time, in times that a request runs. Judgement: a fleet that starts empty is full after one
and a half."""

MOST_REQUESTS = 3000
"""Requests of a run, at most: a run with more is shorter, the warm-up too. Judgement: it takes a few seconds."""

TTFT_SLO, TPOT_SLO = 6.0, 1.2
"""SLO for the time to first token, in saturated steps with the prefill of the mean prompt, and for the time per token,
in saturated steps. Judgement: at 70 % load nearly all requests meet them, at 120 % few."""

LEAST_THINK_S = 0.1

USUAL_LOAD = 0.7
"""The load whose times scale those of bursts."""

RAMP_RESIDENCES = 0.07
"""Time in which the clients of a closed loop start. The scenario `random` has 5 s of 76."""


class Split(StrEnum):
    """Whether a cost may be fitted on a card or a seed."""

    FIT = "fit"
    HELD_OUT = "held-out"


class RelativeSteady(Schema):
    """Poisson arrivals at a share of the fleet's saturated rate."""

    kind: Literal["steady"]
    relative: float = Field(gt=0)


class RelativeClosed(Schema):
    """A closed loop with a share of the requests that the fleet can run at once."""

    kind: Literal["closed"]
    relative: float = Field(gt=0)


class RelativeBursts(Schema):
    """Two alternating rates, as shares of the saturated rate. Times are in times that a request runs at 70 % load."""

    kind: Literal["bursts"]
    on_relative: float = Field(gt=0)
    off_relative: float = Field(ge=0)
    on_residences: float = Field(gt=0)
    off_residences: float = Field(gt=0)


Load = Annotated[RelativeSteady | RelativeClosed | RelativeBursts, Field(discriminator="kind")]


class Members(Schema):
    """Replicas of the card that a scenario is for."""

    count: int = Field(gt=0)
    slowdown: float = Field(1.0, gt=0)
    cache: float = Field(1.0, gt=0)


class Steps(Schema):
    """`Turns` without a think time, which follows from `Shape.cached`."""

    count: Distribution
    input_tokens: Distribution


class Shape(Schema):
    """A workload with lengths for an A10, and a load that is relative to the capacity."""

    name: str
    description: str
    load: Load
    input_tokens: Distribution
    output_tokens: Distribution
    fleet: tuple[Members, ...] = (Members(count=4, slowdown=1.0, cache=1.0),)
    prefixes: Prefixes | None = None
    turns: Steps | None = None
    criticality: dict[Criticality, float] = Field({Criticality.STANDARD: 1.0}, description="weights")
    max_tokens: int | None = None
    cached: float | None = Field(
        None, gt=0, description="share of the fleet's caches that live sessions fill, or the prefixes without sessions"
    )


class CardSplit(Schema):
    fit: tuple[str, ...]
    held_out: tuple[str, ...]


class FirstSeeds(Schema):
    fit: int = Field(ge=0)
    held_out: int = Field(ge=0)


class Matrix(Schema):
    cards: CardSplit
    first_seed: FirstSeeds
    shapes: tuple[Shape, ...] = Field(min_length=1)

    def usage_of(self, card: str, split: Split) -> str:
        """What a card and the seeds of a split are for."""
        card_is = "fit" if card in self.cards.fit else "held-out"
        return f"{card_is} card, {split} seeds"

    def seed_of(self, split: Split) -> int:
        """The first seed of a split."""
        return self.first_seed.fit if split is Split.FIT else self.first_seed.held_out

    def cards_of(self, split: Split) -> Sequence[str]:
        """The cards that a split runs: those of `fit`, or all with the seeds that are held out."""
        return self.cards.fit if split is Split.FIT else (*self.cards.fit, *self.cards.held_out)

    def scenarios(self, split: Split, pattern: str = "*") -> Iterator[Scenario]:
        """Every shape on every card of the split, named card/shape, as far as the name matches."""
        for card in self.cards_of(split):
            for shape in self.shapes:
                if selected(f"{card}/{shape.name}", pattern):
                    yield scenario(shape, card)


def selected(name: str, patterns: str) -> bool:
    """Whether a scenario's name matches one of the patterns, which commas separate."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split(","))


def read_matrix(path: Path) -> Matrix:
    """Reads the description. Raises InvalidScenario, OSError."""
    matrix = read_description(path, Matrix)
    unknown = [card for card in matrix.cards_of(Split.HELD_OUT) if card not in CARDS]
    if unknown:
        raise InvalidScenario(f"{path}: cards: no card {', '.join(unknown)}; allowed are {', '.join(CARDS)}")
    return matrix


def scenario(shape: Shape, card: str) -> Scenario:
    """The scenario of a shape on a card."""
    fleet = tuple(
        Replicas(card=card, count=members.count, slowdown=members.slowdown, cache=members.cache)
        for members in shape.fleet
    )
    workload = workload_on(card, shape)
    capacity = FleetCapacity.of(fleet, workload)
    load = shape.load.relative if not isinstance(shape.load, RelativeBursts) else USUAL_LOAD
    rate_per_s = load * capacity.saturated_rate_per_s
    residence_s = session_s = capacity.residence_s(load)
    changes: dict[str, object] = {"arrivals": _arrivals(shape.load, capacity, residence_s)}
    if workload.turns is not None and shape.cached is not None:
        # As many sessions are alive as have room. By Little's law, this is how long a turn and its pause take.
        alive = shape.cached * capacity.kv_tokens / capacity.request.held
        turn_s = max(residence_s + LEAST_THINK_S, alive / rate_per_s)
        session_s = capacity.request.turns * turn_s
        think_s = Exponential(kind="exponential", mean=turn_s - residence_s)
        changes["turns"] = workload.turns.model_copy(update={"think_s": think_s})
    elif workload.prefixes is not None and shape.cached is not None:
        count = round(shape.cached * capacity.kv_tokens / capacity.request.shared)
        changes["prefixes"] = workload.prefixes.model_copy(update={"count": count})
    warmup_s = max(WARMUP_RESIDENCES * residence_s, session_s)
    measured_s = max(MEASURED_RESIDENCES * residence_s, session_s, MEASURED_REQUESTS / rate_per_s)
    shortened = min(1.0, MOST_REQUESTS / (rate_per_s * (warmup_s + measured_s)))
    step_s = capacity.saturated_step_s
    return Scenario(
        name=f"{card}/{shape.name}",
        description=shape.description,
        fleet=fleet,
        workload=workload.model_copy(update=changes),
        duration_s=shortened * (warmup_s + measured_s),
        warmup_s=shortened * warmup_s,
        slo=Slo(ttft_s=TTFT_SLO * (step_s + capacity.prefill_s(capacity.request.uncached)), tpot_s=TPOT_SLO * step_s),
    )  # pyright: ignore[reportCallIssue]


def workload_on(card: str, shape: Shape) -> Generated:
    """The workload of a shape with lengths for a card. Arrivals, think times and prefixes are not those of a fleet."""
    factor = sqrt(CARDS[card].kv_tokens / REFERENCE_KV_TOKENS)
    no_pause = Fixed(kind="fixed", value=0.0)
    workload = Generated(
        kind="generated",
        arrivals=Poisson(kind="poisson", rate_per_s=1.0),
        input_tokens=shape.input_tokens,
        output_tokens=shape.output_tokens,
        prefixes=shape.prefixes,
        turns=shape.turns and Turns(count=shape.turns.count, think_s=no_pause, input_tokens=shape.turns.input_tokens),
        loras=None,
        criticality=shape.criticality,
        max_tokens=shape.max_tokens,
    )
    return scaled_lengths(workload, factor)


def _arrivals(load: Load, capacity: FleetCapacity, residence_s: float) -> Arrivals:
    sessions_per_s = capacity.saturated_rate_per_s / capacity.request.turns
    match load:
        case RelativeSteady(relative=relative):
            return Poisson(kind="poisson", rate_per_s=relative * sessions_per_s)
        case RelativeClosed(relative=relative):
            clients = max(1, round(relative * capacity.most_sequences))
            return Closed(kind="closed", clients=clients, ramp_s=RAMP_RESIDENCES * residence_s)
        case RelativeBursts(
            on_relative=on, off_relative=off, on_residences=on_residences, off_residences=off_residences
        ):
            return Bursts(
                kind="bursts",
                on_rate_per_s=on * sessions_per_s,
                off_rate_per_s=off * sessions_per_s,
                on_s=on_residences * residence_s,
                off_s=off_residences * residence_s,
            )
