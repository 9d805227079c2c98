"""Compares recorded pages and states of a server with LoRA adapters.

A recorded state contains the numbers of running and waiting requests (for capacity or deferred) and the adapters shown
in use. The engine is brought into that state and must show the same.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineRequest
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.metrics import config_of, first_difference, page_lines
from vllm_mock.verify.recorded_server import engine_config, read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.trace_run import Json, UniqueText

_INFO = "vllm:lora_requests_info"
_TOKENS = 20


def verify_lora_metrics(folder: Path) -> Iterator[Result]:
    """Yields one result for each file with metrics under `folder`/lora."""
    lora = folder / "lora"
    states_file = lora / "states.json"
    if not states_file.exists():
        return
    recorded: Json = json.loads(states_file.read_text())
    server, config = read_server(folder), recorded.get("config", {})
    names = ("max_loras", "max_lora_rank", "max_num_seqs")
    limits = {"enable_lora": True, **{name: config[name] for name in names if name in config}}

    def settings(name: str) -> ServeSettings:
        return server.settings(f"lora/{name}").model_copy(update=limits)

    for file in (lora / "metrics-idle.txt", lora / "metrics-after.txt"):
        if file.exists():
            start = settings(file.name)
            fresh = "idle" in file.stem
            note = "fresh" if fresh else "families, labels and order: its requests are not recorded"
            yield Result(f"lora/{file.name}", _page(file.read_text(), start, fresh), note)
    start = settings(states_file.name)
    yield Result("lora/states.json", _states(recorded["states"], start), f"{len(recorded['states'])} states")


def _page(text: str, start: ServeSettings, fresh: bool) -> str | None:
    recorded, config = page_lines(text), config_of(text, start)
    ours = page_lines(EngineMetrics(config, start.names[0]).engine_text())
    if fresh:
        return first_difference(recorded, ours)
    names = [line.text for line in recorded if not line.text.startswith(_INFO)]
    mine = [line.text for line in ours]
    if names != mine:
        return next(f"found {m}, recorded {n}" for n, m in zip(names, mine, strict=False) if n != m)
    for running, waiting, max_lora in _series(text):
        if running != waiting or max_lora != str(config.max_loras):
            return f"{_INFO} of {running!r} and {waiting!r} with max_lora {max_lora} is not a state of the engine"
    return None


def _states(states: Sequence[Json], start: ServeSettings) -> str | None:
    for state in states:
        difference = _state(state, start)
        if difference is not None:
            return f"{state['name']}: {difference}"
    return None


def _state(state: Json, start: ServeSettings) -> str | None:
    """Brings an engine into the state and returns the first difference.

    Every waiting request has an adapter of its own, which the metric must not show.
    """
    updates, config = count(1.0), engine_config(start)
    metrics = EngineMetrics(config, start.names[0], unix_s=lambda: next(updates))
    engine = Engine(config, UniqueText(), StepTime(start.step_floor_s or 0.0, 0.0, 0.0, 0.0), metrics)
    running, by_reason = int(state["running"]), state["waiting_by_reason"]
    rows = [line for line in state["lora_requests_info"] if not line.startswith("#")]
    adapters = _newest(rows) if rows else []
    if not running and rows:
        engine.submit(_request("finished", None, 1), 0.0)
    for index in range(running):
        engine.submit(_request(f"running-{index}", adapters[index % len(adapters)] if adapters else None, _TOKENS), 0.1)
    for index in range(int(by_reason["capacity"]) + int(by_reason["deferred"])):
        engine.submit(_request(f"waiting-{index}", f"waiting-{index}", _TOKENS), 0.15)
    engine.advance_to(0.25)
    values = engine.metrics.values
    ours = {
        "running": values.running,
        "waiting": values.waiting_capacity + values.waiting_deferred,
        "waiting_by_reason": {"capacity": values.waiting_capacity, "deferred": values.waiting_deferred},
    }
    for name, mine in ours.items():
        if mine != state[name]:
            return f"{name} is {mine}, recorded {state[name]}"
    shown = [line for line in engine.metrics.engine_text().splitlines() if line.startswith(_INFO)]
    if bool(shown) != bool(rows):
        return f"{_INFO} has {len(shown)} samples, recorded {len(rows)}"
    if shown and _newest(shown) != adapters:
        return f"{_INFO} shows {_newest(shown)} last, recorded {adapters}"
    return None


def _request(request_id: str, lora: str | None, tokens: int) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt=(1, 2, 3), max_tokens=tokens, lora=lora)


def _newest(rows: Sequence[str]) -> list[str]:
    """The adapters of the sample with the greatest value, which is the newest."""
    newest = max(rows, key=lambda row: float(row.rpartition(" ")[2]))
    (names,) = {running for running, _, _ in _series(newest)}
    return names.split(",") if names else []


def _series(text: str) -> list[tuple[str, str, str]]:
    """The labels (running, waiting, max_lora) of each sample."""
    return [
        (
            sample.labels["running_lora_adapters"],
            sample.labels["waiting_lora_adapters"],
            sample.labels["max_lora"],
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == _INFO
    ]
