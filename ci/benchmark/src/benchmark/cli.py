"""The `benchmark-serving` command."""

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import datetime

import msgspec
import uvloop
from rich.console import Console

from benchmark.compare.history import baseline_sentence, comparable, regressions
from benchmark.compare.record import BadHistory, Record, add_to_history, read_history, record_of, save_record
from benchmark.compare.rounds import Comparison, compare
from benchmark.compare.table import comparison_table, conclusions
from benchmark.compare.thresholds import ThresholdResult, judge_thresholds
from benchmark.datasets.files import BadDataset
from benchmark.load.run import Progress, run_load, warm_up
from benchmark.load.samples import LoadResult
from benchmark.planning import CannotRun, plan_of, target_of, tokenizer_of
from benchmark.progress import comparison_progress, shown_progress
from benchmark.results.printed import printed_summary
from benchmark.results.saved import RunDescription, default_filename, result_json, save
from benchmark.results.summary import summarise
from benchmark.settings.commands import CompareSettings, ServeSettings, read_compare, read_serve
from benchmark.tokens.tokenizer import NoSuchTokenizer

_MAX_ERRORS_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits.

    Exit status 2: wrong usage. 1: the command cannot run, requests failed, a threshold (`--aim`) was missed, or a
    figure is a regression and `--fail-on-regression` is given. 130: interrupted."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if argv[:1] == ["compare"]:
            sys.exit(_run(_compare(read_compare(argv[1:]))))
        sys.exit(_run(_serve(read_serve(argv))))
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
    target = await target_of(load, settings.base_url, settings.request_id_prefix)
    tokenizer = tokenizer_of(load, target)
    console.print(f"Tokenizer: {tokenizer.name}")
    workload = load.dataset(tokenizer, load.seed)
    if load.warmups:
        print(f"Warming up with {load.warmups} requests...")
        await warm_up(target, workload, load.pace, load.warmups)
    print("Starting main benchmark run...")
    print(f"Traffic request rate: {load.pace.request_rate}")
    process = "Poisson process" if load.pace.burstiness == 1 else "Gamma distribution"
    print(f"Burstiness factor: {load.pace.burstiness} ({process})")
    print(f"Maximum request concurrency: {load.pace.max_concurrency}")
    with shown_progress(console, load.show_progress) as report:

        def on_progress(progress: Progress) -> None:
            report("benchmark", progress.done, progress.total, progress.failed)

        result = await run_load(
            target,
            workload,
            load.pace,
            seed=load.seed,
            keep_text=settings.save_detailed,
            on_progress=on_progress,
        )
    summary = summarise(result, settings.percentiles, settings.goals)
    _print_errors(result)
    print(printed_summary(summary, load.pace, settings.latencies))
    _print_other_lengths(result)
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
    # Read before the first request: an unreadable history must not cost hours of measuring.
    history = read_history(settings.history) if settings.history is not None else None
    plan, tokenizer = await plan_of(settings)
    console.print(f"Tokenizer: {tokenizer.name}")
    with shown_progress(console, load.show_progress) as report:
        comparison = await compare(plan, comparison_progress(report))
    for runs in comparison.rounds:
        for run in runs:
            _print_errors(run.result, f"{run.contender.name}: ")
    console.print(comparison_table(comparison))
    for sentence in conclusions(comparison):
        console.print(sentence)
    record, past = _judge_by_history(history, record_of(comparison, datetime.now()))
    for sentence in record.regressions:
        console.print(f"Regression: {sentence}.")
    if past is not None and not record.regressions:
        console.print(baseline_sentence(past))
    thresholds = list(judge_thresholds(comparison, settings.thresholds))
    record = msgspec.structs.replace(
        record, missed=tuple(threshold.sentence for threshold in thresholds if threshold.missed)
    )
    for threshold in thresholds:
        console.print(f"{threshold.sentence}.")
    _write_files(settings, comparison, record, past, thresholds, console)
    regressed = settings.fail_on_regression and record.regressions
    return 1 if comparison.failed or regressed or record.missed else 0


def _judge_by_history(history: Sequence[Record] | None, record: Record) -> tuple[Record, Sequence[Record] | None]:
    """Returns the record with its regressions, and the earlier records it was judged by; None without a history."""
    if history is None:
        return record, None
    past = comparable(record, history)
    return msgspec.structs.replace(record, regressions=tuple(regressions(record, past))), past


def _write_files(
    settings: CompareSettings,
    comparison: Comparison,
    record: Record,
    past: Sequence[Record] | None,
    thresholds: Sequence[ThresholdResult],
    console: Console,
) -> None:
    """Writes every file that the flags name. Raises OSError."""
    if settings.plot is not None or settings.report is not None:
        # Imported here: matplotlib takes a second to load, and most comparisons draw nothing.
        from benchmark.report.page import Chapter, save_report
        from benchmark.report.plots import save_kv_usage

        if settings.plot is not None:
            save_kv_usage(comparison, settings.plot)
        if settings.report is not None:
            chapter = Chapter(
                comparison, record, settings.shown_flags, past, thresholds, settings.title, settings.about
            )
            save_report(settings.report, [chapter])
    if settings.json is not None:
        save_record(settings.json, record)
    if settings.history is not None:
        add_to_history(settings.history, record)
    for path in (settings.report, settings.plot, settings.json, settings.history):
        if path is not None:
            console.print(f"Saved {path}")


def _console() -> Console:
    # A file or a pipe has no width. The table fits into 130 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 130)


def _print_errors(result: LoadResult, prefix: str = "") -> None:
    """Prints the most frequent errors with their counts."""
    for error, count in Counter(sample.error for sample in result.failed).most_common(_MAX_ERRORS_SHOWN):
        print(f"{prefix}{count} requests failed: {error}", file=sys.stderr)


def _print_other_lengths(result: LoadResult) -> None:
    """Prints a warning if the server's token counts show that it uses another tokenizer."""
    planned = sum(sample.planned_prompt_tokens for sample in result.completed)
    counted = sum(sample.prompt_tokens for sample in result.completed)
    if planned and abs(counted / planned - 1) > 0.02:
        print(f"The server counted {counted} prompt tokens, {planned} were planned: its tokenizer is a different one.")
