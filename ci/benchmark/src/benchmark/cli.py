"""The `benchmark-serving` command."""

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from rich.console import Console

from benchmark.compare.history import comparable, regressions
from benchmark.compare.record import BadHistory, Record, add_to_history, read_history, record_of, save_record
from benchmark.compare.rounds import CompareProgress, Comparison, Contender, Plan, compare
from benchmark.compare.table import comparison_table, conclusions
from benchmark.datasets.files import BadDataset
from benchmark.load.run import Progress, run_load, warm_up
from benchmark.load.samples import LoadResult
from benchmark.load.target import Target
from benchmark.progress import shown_progress
from benchmark.results.printed import printed_summary
from benchmark.results.saved import RunDescription, default_filename, result_json, save
from benchmark.results.summary import summarise
from benchmark.settings.commands import CompareSettings, ServeSettings, read_compare, read_serve
from benchmark.settings.load import LoadSettings
from benchmark.tokens.tokenizer import NoSuchTokenizer, Tokenizer, find_tokenizer

_MOST_ERRORS_TOLD = 10


class CannotRun(Exception):
    """The command cannot begin; the message is for people."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits 2 on wrong usage, 1 when the command cannot run or requests failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["compare"]:
            sys.exit(_run(_compare(read_compare(given[1:]))))
        sys.exit(_run(_serve(read_serve(given))))
    except (CannotRun, NoSuchTokenizer, BadDataset, BadHistory, OSError) as error:
        print(f"benchmark-serving: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("benchmark-serving: interrupted", file=sys.stderr)
        sys.exit(130)


def _run(command: Coroutine[None, None, int]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(command)


async def _serve(settings: ServeSettings) -> int:
    console = _console()
    load = settings.load
    target = await _target(load, settings.base_url, settings.request_id_prefix)
    tokenizer = _tokenizer(load, target, console)
    workload = load.dataset(tokenizer, load.seed)
    if load.warmups:
        print(f"Warming up with {load.warmups} requests...")
        await warm_up(target, workload, load.pace, load.warmups)
    print("Starting main benchmark run...")
    print(f"Traffic request rate: {load.pace.request_rate}")
    process = "Poisson process" if load.pace.burstiness == 1 else "Gamma distribution"
    print(f"Burstiness factor: {load.pace.burstiness} ({process})")
    print(f"Maximum request concurrency: {load.pace.max_concurrency}")
    with shown_progress(console, load.show_progress) as told:

        def on_progress(progress: Progress) -> None:
            told("benchmark", progress.done, progress.total, progress.failed)

        result = await run_load(
            target,
            workload,
            load.pace,
            seed=load.seed,
            keep_text=settings.save_detailed,
            on_progress=on_progress,
        )
    summary = summarise(result, settings.percentiles, settings.goals)
    _tell_errors(result)
    print(printed_summary(summary, load.pace, settings.latencies))
    _tell_other_lengths(result)
    if settings.save_result:
        description = RunDescription(
            date=datetime.now(),
            backend=load.backend,
            model_id=load.model or target.model,
            tokenizer_id=load.tokenizer or load.model or target.model,
            num_prompts=len(workload),
            pace=load.pace,
            label=settings.label,
            metadata=dict(settings.metadata),
        )
        path = settings.result_dir / (settings.result_filename or default_filename(description))
        save(path, result_json(description, result, summary, settings.latencies, settings.save_detailed))
        print(f"Saved {path}")
    return 1 if summary.failed else 0


async def _compare(settings: CompareSettings) -> int:
    console = _console()
    load = settings.load
    targets = [(name, await _target(load, url, f"bench-{name}-")) for name, url in settings.targets]
    tokenizer = _tokenizer(load, targets[0][1], console)
    plan = Plan(
        contenders=tuple(Contender(name, target) for name, target in targets),
        workload=partial(load.dataset, tokenizer),
        pace=load.pace,
        rounds=settings.rounds,
        seed=load.seed,
        replicas=load.replicas,
        interval_s=load.replica_interval_s,
        warmups=load.warmups,
    )
    with shown_progress(console, load.show_progress) as told:

        def on_progress(progress: CompareProgress) -> None:
            what = f"round {progress.round_number} of {progress.rounds}, {progress.contender}"
            told(what, progress.leg.done, progress.leg.total, progress.leg.failed)

        comparison = await compare(plan, on_progress)
    for legs in comparison.rounds:
        for leg in legs:
            _tell_errors(leg.result, f"{leg.contender.name}: ")
    console.print(comparison_table(comparison))
    for sentence in conclusions(comparison):
        console.print(sentence)
    record, past = _judged_by_history(record_of(comparison, datetime.now()), settings.history)
    for sentence in record.regressions:
        console.print(f"Regression: {sentence}.")
    _keep(settings, comparison, record, past, console)
    regressed = settings.fail_on_regression and record.regressions
    return 1 if comparison.failed_requests or regressed else 0


def _judged_by_history(record: Record, history: Path | None) -> tuple[Record, Sequence[Record]]:
    """The record with its regressions, and the runs that it was judged by. Raises BadHistory, OSError."""
    if history is None:
        return record, ()
    past = comparable(record, read_history(history))
    return msgspec.structs.replace(record, regressions=tuple(regressions(record, past))), past


def _keep(
    settings: CompareSettings, comparison: Comparison, record: Record, past: Sequence[Record], console: Console
) -> None:
    """Write every file that was asked for. Raises OSError."""
    if settings.plot is not None or settings.report is not None:
        # matplotlib takes a second to load; who draws nothing need not wait for it.
        from benchmark.report.page import save_report
        from benchmark.report.plots import save_kv_usage

        if settings.plot is not None:
            save_kv_usage(comparison, settings.plot)
        if settings.report is not None:
            save_report(settings.report, comparison, record, past, settings.told)
    if settings.json is not None:
        save_record(settings.json, record)
    if settings.history is not None:
        add_to_history(settings.history, record)
    for path in (settings.report, settings.plot, settings.json, settings.history):
        if path is not None:
            console.print(f"Saved {path}")


def _console() -> Console:
    # A file or a pipe has no width; the table fits this one.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 130)


async def _target(load: LoadSettings, base_url: str, request_id_prefix: str | None) -> Target:
    target = Target(
        base_url=base_url,
        model=load.served_model_name or load.model or await _first_model(base_url),
        api=load.api,
        endpoint=load.endpoint,
        headers=load.headers,
        temperature=load.temperature,
        logprobs=load.logprobs,
        request_id_prefix=request_id_prefix or f"bench-{secrets.token_hex(4)}-",
    )
    try:
        _ = target.url
    except ValueError as error:
        raise CannotRun(str(error)) from None
    return target


async def _first_model(base_url: str) -> str:
    """The first model that the server lists. Raises CannotRun."""
    url = f"{base_url.rstrip('/')}/v1/models"
    try:
        async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise CannotRun(f"no --model given, and {url} does not tell one: {error}") from None


def _tokenizer(load: LoadSettings, target: Target, console: Console) -> Tokenizer:
    tokenizer = find_tokenizer(load.model or target.model, load.tokenizer)
    console.print(f"Tokenizer: {tokenizer.name}")
    return tokenizer


def _tell_errors(result: LoadResult, whose: str = "") -> None:
    """The most frequent ones, with their number."""
    for error, count in Counter(sample.error for sample in result.failed).most_common(_MOST_ERRORS_TOLD):
        print(f"{whose}{count} requests failed: {error}", file=sys.stderr)


def _tell_other_lengths(result: LoadResult) -> None:
    """Say so when the server's tokenizer is visibly another one."""
    planned = sum(sample.planned_prompt_tokens for sample in result.completed)
    counted = sum(sample.prompt_tokens for sample in result.completed)
    if planned and abs(counted / planned - 1) > 0.02:
        print(f"The server counted {counted} prompt tokens where {planned} were planned: its tokenizer is another one.")
