"""The parts of `gateway-vllm` that run without vLLM."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from benchmark.tokens.huggingface import HuggingFaceTokenizer
from e2e.local_gateway import LocalGateway, Ports
from e2e.processes import LoggedChild
from e2e.vllm_cpu.cli import main
from e2e.vllm_cpu.comparison import kv_event_problems
from e2e.vllm_cpu.figures import FIGURES, Leg, ServerUse, figures_table, ratios
from e2e.vllm_cpu.load import BenchFailed, BenchResult, bench_command, read_result, shared_prefixes
from e2e.vllm_cpu.model import CONFIG, make_model
from e2e.vllm_cpu.servers import VllmFleet
from e2e.vllm_cpu.settings import read_settings
from jinja2 import Template
from rich.console import Console

PYTHON, MODEL = Path("/vllm/bin/python"), Path("/model")


def fleet(cores: Sequence[int] = ()) -> VllmFleet:
    return VllmFleet(PYTHON, MODEL, (20_000, 20_001), (20_002, 20_003), kv_blocks=512, cores=tuple(cores))


def leg(p50_ttft_ms: float, *servers: ServerUse) -> Leg:
    return Leg(BenchResult(120, 0, 10.0, 320.0, p50_ttft_ms, 200.0, 5.0, 8.0), servers)


def test_the_model_has_a_tokenizer_of_its_vocabulary(tmp_path: Path) -> None:
    make_model(tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    assert f"({CONFIG['vocab_size']:,} tokens)" in tokenizer.name
    assert tokenizer.count("".join(tokenizer.words[:500])) == 500


def test_the_model_is_the_same_every_time(tmp_path: Path) -> None:
    """Its tokens are the same in every run, so that runs can be compared."""
    for name in ("first", "second"):
        make_model(tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second


def test_the_chat_template_renders_each_message(tmp_path: Path) -> None:
    make_model(tmp_path)
    template = json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    text = Template(template).render(messages=[{"role": "user", "content": "hello"}], add_generation_prompt=True)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_servers_publish_kv_events_on_the_ports_of_their_labels() -> None:
    for index in range(2):
        command = list(fleet().command(index, 8000 + index))
        events = json.loads(command[command.index("--kv-events-config") + 1])
        assert events["endpoint"] == f"tcp://*:{20_000 + index}"
        assert events["replay_endpoint"] == f"tcp://*:{20_002 + index}"
        assert fleet().labels(index) == {
            "inference-gateway/kv-events-port": str(20_000 + index),
            "inference-gateway/kv-events-replay-port": str(20_002 + index),
        }


def test_a_server_listens_on_loopback_and_downloads_nothing() -> None:
    command = " ".join(fleet().command(1, 8001))
    assert command.startswith(f"{PYTHON} -m vllm.entrypoints.cli.main serve {MODEL} ")
    assert "--host 127.0.0.1 --port 8001" in command
    assert "--load-format dummy" in command
    assert fleet().environment["HF_HUB_OFFLINE"] == "1"


def test_a_pinned_server_is_bound_to_its_core() -> None:
    assert list(fleet(cores=(2, 3)).command(1, 8001))[:3] == ["taskset", "--cpu-list", "3"]


async def test_the_endpoints_file_has_the_labels_of_each_server(tmp_path: Path) -> None:
    gateway = LocalGateway((fleet(),), Ports.free(2))
    gateway.folder = tmp_path
    gateway.write_endpoints()
    endpoints = yaml.safe_load(gateway.endpoints_file.read_text())["endpoints"]
    assert [endpoint["labels"] for endpoint in endpoints] == [
        {"app": "qwen", **fleet().labels(index)} for index in range(2)
    ]


async def test_a_child_has_the_given_variables_besides_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_PARENT", "inherited")
    command = ["sh", "-c", "echo $OF_PARENT $OF_CHILD"]
    child = await LoggedChild.start("child", command, tmp_path / "log", {"OF_CHILD": "given"})
    assert await child.process.wait() == 0
    assert child.last_lines() == "inherited given"


def test_the_bench_command_sends_the_load_to_one_port_and_saves_its_figures() -> None:
    load = shared_prefixes(10, 1200, 50, 32)
    command = " ".join(
        bench_command(PYTHON, MODEL, load, "http://127.0.0.1:8081", 120, 8, 3, Path("out/vllm/result.json"))
    )
    assert command.startswith(f"{PYTHON} -m vllm.entrypoints.cli.main bench serve --backend vllm")
    for flags in (
        "--base-url http://127.0.0.1:8081 --model /model/qwen --tokenizer /model",
        "--prefix-repetition-num-prefixes 10 --prefix-repetition-prefix-len 1200",
        "--num-prompts 120 --max-concurrency 8 --seed 3",
        "--metric-percentiles 50,90",
        "--result-dir out/vllm --result-filename result.json",
    ):
        assert flags in command


def test_figures_are_read_from_a_recorded_result_of_vllm(tmp_path: Path) -> None:
    """Fields that are not compared are ignored."""
    path = tmp_path / "result.json"
    recorded = {
        "date": "20261129-070236", "backend": "vllm", "completed": 60, "failed": 0, "request_throughput": 21.5,
        "output_throughput": 344.1, "latencies": [0.7], "mean_ttft_ms": 146.4, "p50_ttft_ms": 68.4,
        "p90_ttft_ms": 441.0, "p50_tpot_ms": 12.9, "p90_tpot_ms": 23.0,
    }  # fmt: skip
    path.write_text(json.dumps(recorded))
    assert read_result(path) == BenchResult(60, 0, 21.5, 344.1, 68.4, 441.0, 12.9, 23.0)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_result_without_figures_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BenchFailed, match=r"result\.json"):
        read_result(path)


def test_shares_are_of_all_prompt_tokens() -> None:
    found = leg(100.0, ServerUse(600.0, 450.0), ServerUse(400.0, 300.0))
    assert (found.hit_ratio, found.largest_share) == (0.75, 0.6)


def test_shares_without_prompts_are_unknown() -> None:
    found = leg(100.0, ServerUse(0.0, 0.0))
    assert math.isnan(found.hit_ratio)
    assert math.isnan(found.largest_share)


def test_the_ratio_is_of_the_picked_port_to_the_plain_one_round_by_round() -> None:
    assert ratios(FIGURES[0], [leg(100.0), leg(50.0)], [leg(50.0), leg(100.0)]) == [0.5, 2.0]


def test_the_table_has_a_row_for_each_figure() -> None:
    output = io.StringIO()
    table = figures_table("2 rounds", [leg(100.0), leg(50.0)], [leg(50.0), leg(100.0)])
    Console(width=110, file=output).print(table)
    text = output.getvalue()
    assert "TTFT p50 (ms)              │       75.0 │        75.0 │  1.00 │ 0.50-2.00" in text
    assert all(figure.name in text for figure in FIGURES)


@pytest.mark.parametrize(
    ("blocks", "problems"),
    [
        ((30, 20), []),
        ((30, 0), ["no KV events of qwen-1 arrived"]),
        ((None, 20), ["no KV events of qwen-0 arrived"]),
    ],
)
def test_a_server_that_reported_no_block_is_a_problem(blocks: Sequence[int | None], problems: Sequence[str]) -> None:
    endpoints = [{"server": f"qwen-{number}", "reported_blocks": count} for number, count in enumerate(blocks)]
    assert kv_event_problems(endpoints, [ServerUse(100.0, 0.0), ServerUse(100.0, 0.0)]) == problems


def test_an_idle_server_need_not_report_blocks() -> None:
    assert kv_event_problems([{"server": "qwen-0", "reported_blocks": 0}], [ServerUse(0.0, 0.0)]) == []


def test_quick_is_one_short_round_of_every_load() -> None:
    settings = read_settings(["--quick"])
    assert (settings.rounds, settings.prompts) == (1, 40)
    assert [load.name for load in settings.loads] == ["shared-prefixes", "random"]


def test_missing_vllm_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["--out", str(tmp_path)])
    # Long paths wrap the line.
    assert "make vllm" in " ".join(capsys.readouterr().out.split())
