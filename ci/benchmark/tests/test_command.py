"""The command, as a user types it."""

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
"""Runs a command line in a folder of its own: exit status, and what was printed, out and err."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(shlex.split(line))
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, printed.out, printed.err

    # In a thread, for the command has an event loop of its own.
    return lambda line: asyncio.to_thread(run, line)


def test_the_tutorials_flags_are_understood() -> None:
    settings = read_serve(shlex.split(TUTORIAL))
    assert (settings.base_url, settings.load.endpoint) == ("http://10.0.0.9:8080", "/v1/completions")
    assert settings.load.pace == Pace(max_concurrency=200)
    assert settings.save_result


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--max-concurency 3", "unrecognized arguments: --max-concurency 3"),
        ("--max-conc 3", "unrecognized arguments: --max-conc 3"),
        ("--dataset-name sonnet", "invalid choice: 'sonnet'"),
        ("--request-rate 0", "found 0; allowed is a number above 0"),
        ("--random-range-ratio 1.5", "found 1.5; allowed is 0 to 1"),
        ("--num-prompts 0", "found 0; allowed is a whole number from 1 on"),
        ("--goodput itl:3", "found 'itl:3'; allowed is METRIC:MS with one of ttft, tpot, e2el"),
        ("--dataset-name sharegpt", "--dataset-path: needed with --dataset-name sharegpt"),
        ("--dataset-path x.json", "--dataset-path: of no use with --dataset-name random"),
        ("--metric-percentiles 50,x", "found x; allowed is 0 to 100"),
        (
            "--replica-metrics 10.0.0.1:8000",
            "argument --replica-metrics: found 10.0.0.1:8000; allowed is [NAME=]http://",
        ),
    ],
)
def test_wrong_usage_is_refused_with_what_is_allowed(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_serve(shlex.split(line))
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("targets", ["--target a=http://x", "--target a=http://x --target a=http://y"])
def test_fewer_than_two_targets_are_no_comparison(targets: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_compare(shlex.split(targets))
    assert exit_.value.code == 2
    assert "two or more, of different names" in capsys.readouterr().err


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


async def test_failures_are_told_with_their_reason_and_the_exit_status(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    server.refuse = 503
    status, out, err = await command(f"--base-url {server.url} {SMALL}")
    assert status == 1
    assert "6 requests failed: HTTP status 503: The server is overloaded." in err
    assert "Failed requests:                         6" in out


async def test_the_model_is_asked_for_when_none_is_given(server: ModelServer, command: Command, tmp_path: Path) -> None:
    status, _, _ = await command(f"--base-url {server.url} --num-prompts 1 --random-output-len 1")
    assert status == 0
    assert server.bodies[0]["model"] == "/model/qwen"


async def test_a_server_that_is_not_there_and_no_model_is_one_clear_line(command: Command) -> None:
    status, _, err = await command("--port 1")
    assert status == 1
    assert err.startswith("benchmark-serving: no --model given, and http://127.0.0.1:1/v1/models does not tell one")
    assert err.count("\n") == 1


async def test_the_models_own_tokenizer_is_used_where_it_lies(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """A byte-level BPE as those of GPT, Qwen and Llama 3 are."""
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


async def test_a_named_tokenizer_that_is_not_there_is_refused(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    status, _, err = await command(f"--base-url {server.url} {SMALL} --tokenizer {tmp_path}")
    assert status == 1
    assert err == f"benchmark-serving: --tokenizer {tmp_path}: no tokenizer.json there\n"
    assert not server.bodies


async def test_a_file_that_is_no_dataset_is_one_clear_line(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "qa.jsonl").write_text('{"question": "Why?"}\n{"question": 3}\n')
    line = f"--base-url {server.url} {SMALL} --dataset-name custom --dataset-path"
    status, _, err = await command(f"{line} qa.jsonl")
    assert status == 1
    assert err.startswith("benchmark-serving: qa.jsonl, line 2: ")
    assert err.count("\n") == 1
    assert (await command(f"{line} absent.jsonl"))[2].endswith("No such file or directory: 'absent.jsonl'\n")


async def test_a_comparison_prints_a_table_and_draws_a_picture(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    server.metrics = "vllm:kv_cache_usage_perc 0.5\n"
    line = f"compare --target plain={server.url} --target picked={server.url} {SMALL} --rounds 2"
    status, out, err = await command(f"{line} --replica-metrics {server.url} --plot kv.png")
    assert (status, err) == (0, "")
    assert "picked / plain" in out
    assert "TTFT p99 (ms)" in out
    assert (tmp_path / "kv.png").stat().st_size > 10_000


async def test_a_comparison_leaves_a_report_and_a_history_that_judges_the_next(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """Three good runs (one, written down three times), then one of a server that has become far slower. What it was
    asked to keep is there."""
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


async def test_a_history_that_cannot_be_read_is_told_before_anything_is_sent(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """It would cost what has been measured."""
    (tmp_path / "history.jsonl").write_text("nonsense\n")
    line = f"compare --target a={server.url} --target b={server.url} {SMALL} --history history.jsonl"
    status, _, err = await command(line)
    assert (status, server.bodies) == (1, [])
    assert "history.jsonl, line 1: " in err


async def test_a_missed_aim_is_told_and_is_the_exit_status(
    server: ModelServer, command: Command, tmp_path: Path
) -> None:
    """No replica is watched, so nothing is known of their caches."""
    line = f"compare --target a={server.url} --target b={server.url} {SMALL} --rounds 2 --report report.html"
    line += " --title 'Even caches' --about 'What for.' --json run.json"
    status, out, _ = await command(f"{line} --aim 'KV cache spread (std)<=0.5'")
    assert status == 1
    assert "at most 0.5 is wanted, found is - (-): missed" in out
    assert "at most 0.5 is wanted" in " ".join(json.loads((tmp_path / "run.json").read_text())["missed"])
    page = (tmp_path / "report.html").read_text()
    assert "at most 0.5 is wanted" in page
    assert "KV cache spread (std)&lt;=0.5" in page
    assert "<h1>Even caches</h1>" in page
    assert page.count("What for.") == 1


async def test_the_script_of_the_image_is_the_command(server: ModelServer, tmp_path: Path) -> None:
    """As the tutorial calls it: by its path."""
    script = Path(__file__).parents[1] / "image" / "benchmark_serving.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, "--base-url", server.url, *shlex.split(SMALL), "--save-result", cwd=tmp_path
    )
    assert await process.wait() == 0
    (saved,) = tmp_path.glob("vllm-infqps-concurrency3-qwen-*.json")
    assert json.loads(saved.read_text())["completed"] == 6
