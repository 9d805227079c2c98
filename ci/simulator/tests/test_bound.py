"""The lower bound is below every schedule, and the clairvoyant search is at least as good as every scheduler."""

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.resources.inference import Criticality
from simulator.bound.comparison import SHAPES, compared, schedule_of, small_scenario
from simulator.bound.instance import Instance
from simulator.bound.lower_bound import lower_bounds, mean_busy_flow_s, srpt_flow_s
from simulator.bound.search import OBJECTIVES, beam_search, search
from simulator.cli import MATRIX, main
from simulator.experiment.simulation import Simulation
from simulator.matrix.description import read_matrix
from simulator.schedulers.registry import SCHEDULERS
from simulator.workload.distributions import Fixed, Uniform
from simulator.workload.scenario import Generated, Poisson, Prefixes, Replicas, Scenario, Slo

SHAPES_BY_NAME = {shape.name: shape for shape in read_matrix(MATRIX).shapes}


def tiny(
    fleet: tuple[Replicas, ...],
    rate_per_s: float = 5.0,
    requests: float = 6,
    prefixes: int = 0,
    input_tokens: float = 600,
    output_tokens: float = 40,
) -> Scenario:
    return Scenario(
        name="tiny",
        description="",
        fleet=fleet,
        workload=Generated(
            kind="generated",
            arrivals=Poisson(kind="poisson", rate_per_s=rate_per_s),
            input_tokens=Uniform(kind="uniform", low=1, high=2 * input_tokens),
            output_tokens=Uniform(kind="uniform", low=1, high=2 * output_tokens),
            prefixes=Prefixes(count=prefixes, tokens=Fixed(kind="fixed", value=500), zipf=0.5, share=0.7)
            if prefixes
            else None,
            max_tokens=None,
            criticality={Criticality.STANDARD: 1.0},
        ),
        duration_s=requests / rate_per_s,
        warmup_s=0,
        slo=Slo(ttft_s=1, tpot_s=1),
    )  # pyright: ignore[reportCallIssue]


def replicas(card: str = "a10", count: int = 1, slowdown: float = 1.0, cache: float = 1.0) -> Replicas:
    return Replicas(card=card, count=count, slowdown=slowdown, cache=cache)


kinds = st.builds(
    replicas,
    card=st.sampled_from(["a10", "l4-8b", "b200-70b", "h20-235b"]),
    count=st.integers(1, 2),
    slowdown=st.sampled_from([0.5, 1.0, 2.0]),
    cache=st.sampled_from([0.2, 1.0]),
)
fleets = st.lists(kinds, min_size=1, max_size=2).map(tuple)
tinies = st.builds(
    tiny,
    fleets,
    rate_per_s=st.sampled_from([1.0, 10.0, 200.0]),
    requests=st.integers(2, 12),
    prefixes=st.integers(0, 3),
    input_tokens=st.sampled_from([8, 300, 1500]),
    output_tokens=st.sampled_from([1, 20, 150]),
)


@settings(max_examples=150, deadline=None)
@given(tinies, st.integers(0, 1000), st.data())
def test_no_schedule_is_below_the_bound(scenario: Scenario, seed: int, data: st.DataObject) -> None:
    instance = Instance(scenario, seed)
    if not instance.arrivals:
        return
    servers = st.integers(0, len(instance.servers) - 1)
    count = len(instance.arrivals)
    schedule = data.draw(st.lists(servers, min_size=count, max_size=count))
    assert_above_bounds(instance, schedule)


@settings(max_examples=25, deadline=None)
@given(tinies, st.integers(0, 1000))
def test_no_scheduler_is_below_the_bound(scenario: Scenario, seed: int) -> None:
    instance = Instance(scenario, seed)
    if not instance.arrivals:
        return
    for name in SCHEDULERS:
        schedule = schedule_of(name, instance)
        if schedule is not None:
            assert_above_bounds(instance, schedule)


def assert_above_bounds(instance: Instance, schedule: list[int] | tuple[int, ...]) -> None:
    bounds = lower_bounds(instance)
    values = {title: objective(instance.latencies(schedule)) for title, objective in OBJECTIVES.items()}
    for title, bound in (
        ("TTFT mean", bounds.ttft_mean_s),
        ("TTFT p90", bounds.ttft_p90_s),
        ("e2e mean", bounds.e2e_mean_s),
        ("e2e p90", bounds.e2e_p90_s),
    ):
        assert bound <= values[title] * (1 + 1e-9), title


def test_the_bound_of_a_single_request_is_exact() -> None:
    """Nothing is shared and nothing waits."""
    instance = Instance(tiny((replicas(),), requests=2, rate_per_s=0.01), 1)
    assert len(instance.arrivals) >= 1
    bounds = lower_bounds(instance)
    values = instance.latencies([0] * len(instance.arrivals))
    assert bounds.e2e_mean_s == pytest.approx(OBJECTIVES["e2e mean"](values), rel=0.002)
    assert bounds.ttft_mean_s == pytest.approx(OBJECTIVES["TTFT mean"](values), rel=0.002)


def test_the_bound_grows_when_requests_have_to_share_a_server() -> None:
    """Alone, the requests of a burst take as long as those of a trickle."""
    trickle, burst = (lower_bounds(Instance(tiny((replicas(),), rate, 10), 0)) for rate in (0.01, 1000.0))
    assert burst.ttft_mean_s > 2 * trickle.ttft_mean_s
    assert burst.e2e_mean_s > trickle.e2e_mean_s


def test_srpt_interrupts_long_work() -> None:
    """Work of 10 from 0 on, and of 1 from 2 on: the short one ends at 3, the long one at 11."""
    assert srpt_flow_s([0, 2], [10, 1]) == pytest.approx(11 + 1)
    assert mean_busy_flow_s([0.0], [4.0]) == pytest.approx(2.0)


def test_shortest_work_is_first_in_the_mean_of_busy_times() -> None:
    """The long one is worked on from 0 to 2 and from 3 to 11."""
    assert mean_busy_flow_s([0, 2], [10, 1]) == pytest.approx((2 * 1 + 8 * 7) / 10 + 0.5)


@pytest.mark.parametrize("name", ["DEFAULT", "least-request", "weighted-scorers", "bounded-hashing"])
def test_an_instance_has_the_latencies_of_the_simulation(name: str) -> None:
    """The picker's view of the servers does not change what they do with their requests."""
    scenario = small_scenario(SHAPES_BY_NAME["hot-prefix"], "a10")
    instance = Instance(scenario, 3)
    schedule = schedule_of(name, instance)
    assert schedule is not None
    simulation = Simulation(scenario, SCHEDULERS[name], 3, MATRIX.parent)
    simulation.run()
    for record, latency in zip(simulation.records, instance.latencies(schedule), strict=True):
        assert latency.ttft_s == pytest.approx(record.ttft_s, abs=1e-9)
        assert latency.e2e_s == pytest.approx(record.e2e_s, abs=1e-9)


def test_the_search_finds_the_optimum_of_a_small_instance() -> None:
    instance = Instance(tiny((replicas(count=2),), rate_per_s=100, requests=8), 0)
    schedules = product(range(2), repeat=len(instance.arrivals))
    for objective in OBJECTIVES.values():
        optimum = min(objective(instance.latencies(schedule)) for schedule in schedules)
        found = search(instance, objective, [], Random(0))
        assert objective(instance.latencies(found)) == pytest.approx(optimum, rel=1e-6)
        schedules = product(range(2), repeat=len(instance.arrivals))


@pytest.mark.parametrize("shape", ["hot-prefix", "one-slow"])
def test_the_search_is_as_good_as_every_scheduler(shape: str) -> None:
    scenario = small_scenario(SHAPES_BY_NAME[shape], "l4-8b").model_copy(update={"estimate_error": 0.0})
    scenario = scenario.model_copy(update={"duration_s": scenario.duration_s / 2})
    for title, found in compared(scenario, 0).items():
        assert found.lower_bound <= found.searched, title
        assert found.by_scheduler, title
        assert found.searched <= min(found.by_scheduler.values()) * (1 + 1e-9), title


def test_beam_search_assigns_every_request() -> None:
    instance = Instance(tiny((replicas(count=2),)), 0)
    assert len(beam_search(instance, OBJECTIVES["e2e mean"])) == len(instance.arrivals)


def test_a_small_fleet_has_about_the_requests_and_holds_the_longest() -> None:
    for name in SHAPES:
        instance = Instance(small_scenario(SHAPES_BY_NAME[name], "4090-3b"), 0)
        assert len(instance.servers) == 3
        assert 15 <= len(instance.arrivals) <= 50
        longest = max(each.turn.prompt_tokens + each.turn.output_tokens for each in instance.arrivals)
        for server in range(3):
            config, _ = instance.config(server)
            assert longest <= (config.num_gpu_blocks - 1) * config.block_size


def test_sessions_are_rejected() -> None:
    """Their arrivals depend on the schedule."""
    with pytest.raises(ValueError, match="single requests"):
        Instance(small_scenario(SHAPES_BY_NAME["chat"], "a10"), 0)


def test_the_command_prints_a_table_for_every_objective(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.bound.comparison.REQUESTS", 8)
    assert main(["--bound", "--only=a10/heavy-tail", "--seeds=1", "--jobs=1"]) == 0
    shown = capsys.readouterr().out
    for title in OBJECTIVES:
        assert f"{title}: as ratios to the result of the clairvoyant search" in shown
    assert "lower bound" in shown
