"""The command line of `benchmark-serving`."""

import asyncio
import json
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from benchmark.cli import main
from benchmark.load.pace import Pace
from benchmark.settings.commands import read_compare, read_serve
from model_server import ModelServer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TUTORIAL = """--backend vllm --model /models/DeepSeek-R1-Distill-Qwen-7B --served-model-name /model/qwen
    --trust-remote-code --dataset-name random --random-prefix-len 10 --random-input-len 1550 --random-output-len 1800
    --random-range-ratio 0.2 --num-prompts 3000 --max-concurrency 200 --host 10.0.0.9 --port 8080
    --endpoint /v1/completions --save-result"""

SMALL = "--model /model/qwen --random-input-len 20 --random-output-len 5 --num-prompts 6 --max-concurrency 3"


Command = Callable[[str], Awaitable[tuple[int, str, str]]]
"""Runs a command line in an own folder; returns the exit status, stdout and stderr."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(shlex.split(line))
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, printed.out, printed.err

    # In a thread, because the command runs its own event loop.
    return lambda line: asyncio.to_thread(run, line)


def test_the_flags_of_the_tutorial_are_accepted() -> None:
    settings = read_serve(shlex.split(TUTORIAL))
    assert (settings.base_url, settings.load.endpoint) == ("http://10.0.0.9:8080", "/v1/completions")
    assert settings.load.pace == Pace(max_concurrency=200)
    assert settings.save_result


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max-concurency 3", "unrecognized arguments: --max-concurency 3"),
        ("--max-conc 3", "unrecognized arguments: --max-conc 3"),
        ("--dataset-name sonnet", "invalid choice: 'sonnet'"),
        ("--request-rate 0", "found 0; allowed is a number above 0"),
        ("--random-range-ratio 1.5", "found 1.5; allowed is 0 to 1"),
        ("--num-prompts 0", "found 0; allowed is a whole number from 1 on"),
        ("--goodput itl:3", "found 'itl:3'; allowed is METRIC:MS with one of ttft, tpot, e2el"),
        ("--dataset-name sharegpt", "--dataset-path: required with --dataset-name sharegpt"),
        ("--dataset-path x.json", "--dataset-path: not allowed with --dataset-name random"),
        ("--metric-percentiles 50,x", "found x; allowed is 0 to 100"),
        (
            "--replica-metrics 10.0.0.1:8000",
            "argument --replica-metrics: found 10.0.0.1:8000; allowed is [NAME=]http://",
        ),
    ],
)
def test_wrong_usage_is_rejected_with_what_is_allowed(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_serve(shlex.split(line))
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("targets", ["--target a=http://x", "--target a=http://x --target a=http://y"])
def test_fewer_than_two_targets_are_rejected(targets: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_compare(shlex.split(targets))
    assert exit_.value.code == 2
    assert "two or more, with different names" in capsys.readouterr().err


async def test_a_run_prints_the_summary_and_saves_the_result(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    line = f"--base-url {server.url} {SMALL} --save-result --result-filename run.json --metadata card=A10"
    status, out, err = await command(line)
    assert (status, err) == (0, "")
    assert "============ Serving Benchmark Result ============" in out
    assert "Successful requests:                     6         \n" in out
    saved = json.loads((tmp_path / "run.json").read_text())
    assert (saved["completed"], saved["card"], saved["total_output_tokens"]) == (6, "A10", 30)


async def test_failures_are_printed_with_their_reason_and_set_the_exit_status(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    server.reject_status = 503
    status, out, err = await command(f"--base-url {server.url} {SMALL}")
    assert status == 1
    assert "6 requests failed: HTTP status 503: The server is overloaded." in err
    assert "Failed requests:                         6" in out


async def test_without_a_model_flag_the_first_listed_model_is_used(server: ModelServer, command: Command) -> None:
    status, _, _ = await command(f"--base-url {server.url} --num-prompts 1 --random-output-len 1")
    assert status == 0
    assert server.bodies[0]["model"] == "/model/qwen"


async def test_an_unreachable_server_without_a_model_flag_prints_one_line(command: Command) -> None:
    status, _, err = await command("--port 1")
    assert status == 1
    assert err.startswith("benchmark-serving: no --model given, and http://127.0.0.1:1/v1/models does not list one")
    assert err.count("\n") == 1


async def test_the_tokenizer_of_a_model_folder_is_used(server: ModelServer, command: Command, tmp_path: Path) -> None:
    """The tokenizer is a byte-level BPE, as those of GPT, Qwen and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.train_from_iterator(
        ["the cat and the dog and the house", "a dog in the house"] * 20, trainers.BpeTrainer(vocab_size=120)
    )
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    line = f"--base-url {server.url} {SMALL} --tokenizer {tmp_path}/model"
    status, out, _ = await command(line)
    assert status == 0
    assert f"Tokenizer: {tmp_path}/model/tokenizer.json" in out
    for body in server.bodies:
        assert len(tokenizer.encode(body["prompt"])) == 20


async def test_a_missing_tokenizer_is_rejected(server: ModelServer, command: Command, tmp_path: Path) -> None:
    status, _, err = await command(f"--base-url {server.url} {SMALL} --tokenizer {tmp_path}")
    assert status == 1
    assert err == f"benchmark-serving: --tokenizer {tmp_path}: no tokenizer.json in this folder\n"
    assert not server.bodies


async def test_an_invalid_dataset_file_prints_one_line(server: ModelServer, command: Command, tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text('{"question": "Why?"}\n{"question": 3}\n')
    line = f"--base-url {server.url} {SMALL} --dataset-name custom --dataset-path"
    status, _, err = await command(f"{line} qa.jsonl")
    assert status == 1
    assert err.startswith("benchmark-serving: qa.jsonl, line 2: ")
    assert err.count("\n") == 1
    assert (await command(f"{line} absent.jsonl"))[2].endswith("No such file or directory: 'absent.jsonl'\n")


async def test_a_comparison_prints_a_table_and_draws_a_plot(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    server.metrics = "vllm:kv_cache_usage_perc 0.5\n"
    line = f"compare --target plain={server.url} --target picked={server.url} {SMALL} --rounds 2"
    status, out, err = await command(f"{line} --replica-metrics {server.url} --plot kv.png")
    assert (status, err) == (0, "")
    assert "picked / plain" in out
    assert "TTFT p99 (ms)" in out
    assert (tmp_path / "kv.png").stat().st_size > 10_000


async def test_a_comparison_is_judged_by_the_history_and_writes_a_report(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """The history holds three good runs (one, repeated). The next run is far slower."""
    server.token_gap_s = 0.002
    line = f"compare --target a={server.url} --target b={server.url} {SMALL} --rounds 2 --history history.jsonl"
    line += " --fail-on-regression --header Authorization=secret"
    status, out, _ = await command(line)
    assert status == 0
    assert "it holds no good run of this load" in out
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text() * 3)
    server.token_gap_s = 0.1
    status, out, _ = await command(f"{line} --report out/report.html --json out/run.json")
    assert status == 1
    assert "Regression: a: Output throughput" in out
    assert len(history.read_text().splitlines()) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Regression: a: Output throughput" in page
    assert f"a={server.url} b={server.url}" in page
    assert "secret" not in page
    assert json.loads((tmp_path / "out" / "run.json").read_text())["regressions"]


async def test_an_unreadable_history_is_reported_before_the_first_request(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """Later it would cost the measurements."""
    (tmp_path / "history.jsonl").write_text("nonsense\n")
    line = f"compare --target a={server.url} --target b={server.url} {SMALL} --history history.jsonl"
    status, _, err = await command(line)
    assert (status, server.bodies) == (1, [])
    assert "history.jsonl, line 1: " in err


async def test_a_missed_threshold_is_reported_and_sets_the_exit_status(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """No replica is watched, so the figure is absent."""
    line = f"compare --target a={server.url} --target b={server.url} {SMALL} --rounds 2 --report report.html"
    line += " --title 'Even caches' --about 'What for.' --json run.json"
    status, out, _ = await command(f"{line} --aim 'KV cache spread (std)<=0.5'")
    assert status == 1
    assert "at most 0.5 is required, found - (-): missed" in out
    assert "at most 0.5 is required" in " ".join(json.loads((tmp_path / "run.json").read_text())["missed"])
    page = (tmp_path / "report.html").read_text()
    assert "at most 0.5 is required" in page
    assert "KV cache spread (std)&lt;=0.5" in page
    assert "<h1>Even caches</h1>" in page
    assert page.count("What for.") == 1


async def test_the_script_of_the_image_runs_the_command(server: ModelServer, tmp_path: Path) -> None:
    """The tutorial calls the script by its path."""
    script = Path(__file__).parents[1] / "image" / "benchmark_serving.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, "--base-url", server.url, *shlex.split(SMALL), "--save-result", cwd=tmp_path
    )
    assert await process.wait() == 0
    (saved,) = tmp_path.glob("vllm-infqps-concurrency3-qwen-*.json")
    assert json.loads(saved.read_text())["completed"] == 6
