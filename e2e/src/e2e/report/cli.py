"""The `gateway-report` command."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import httpx
import msgspec
import uvloop
from benchmark.compare.record import record_of, save_record
from benchmark.compare.rounds import compare
from benchmark.compare.table import comparison_table, conclusions
from benchmark.compare.thresholds import judge_thresholds
from benchmark.planning import plan_of
from benchmark.progress import comparison_progress, shown_progress
from benchmark.report.page import Chapter, save_report
from benchmark.report.plots import kv_usage_figure, latency_figure, save_png, throughput_figure
from benchmark.settings.commands import CompareSettings, read_compare
from nightly.comparison import flags_of
from nightly.settings import BadSettings, Settings
from nightly.settings import Comparison as Load
from nightly.settings import read_settings as read_loads
from rich.console import Console

from e2e.local_gateway import MODEL, PICKED_PORT, PLAIN_PORT, LocalGateway, NotReady, ProcessFailed
from e2e.processes import interruptible
from e2e.report.fleet import FLEETS
from e2e.report.settings import ReportSettings, read_settings

_TITLE = "Plain Service and endpoint picker: four A10 and two L20, mocked"


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 if every load ran and no aim was missed, 2 on wrong usage, 130 on Ctrl-C.

    Exits 1 if requests failed, an aim was missed, or a part did not start.
    """
    settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    try:
        loads = _chosen(settings, read_loads(settings.loads))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            chapters = runner.run(interruptible(_run(settings, loads, console)))
    except BadSettings as error:
        print(f"gateway-report: {error}", file=sys.stderr)
        sys.exit(2)
    except (ProcessFailed, NotReady, httpx.TransportError) as error:
        console.print(f"[red]The report stopped:[/red] {error}")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        sys.exit(130)
    bad = [
        chapter
        for chapter in chapters
        if chapter.comparison.failed or any(threshold.missed for threshold in chapter.thresholds)
    ]
    sys.exit(1 if bad else 0)


async def _run(settings: ReportSettings, loads: Settings, console: Console) -> Sequence[Chapter]:
    console.print(f"Starting {sum(fleet.replicas for fleet in FLEETS)} model servers, the picker, and Envoy ...")
    chapters: list[Chapter] = []
    async with LocalGateway(FLEETS) as gateway:
        for load in loads.comparisons:
            await gateway.set_strategy(load.strategy)
            console.print(f"\n[bold]{load.title}[/bold]\n{load.about}\n{load.load}", soft_wrap=True)
            given = read_compare(flags(load, gateway, settings.rounds or loads.rounds))
            chapter = await _compare(load, given, console)
            gateway.check()
            chapters.append(chapter)
            _save(chapter, settings.out / load.name)
    report = settings.out / "report.html"
    save_report(report, chapters, _TITLE)
    console.print(f"\nSaved {report}, the figures as JSON and the plots as PNG")
    return chapters


def flags(load: Load, gateway: LocalGateway, rounds: int) -> Sequence[str]:
    """Flags of `benchmark-serving compare`."""
    cards = [fleet.preset for fleet in FLEETS for _ in range(fleet.replicas)]
    replicas = {
        f"{mock.name} ({card})": url for mock, card, url in zip(gateway.mocks, cards, gateway.mock_urls, strict=True)
    }
    urls = {PLAIN_PORT: gateway.plain_url, PICKED_PORT: gateway.picked_url}
    return flags_of(load, rounds, urls, replicas, before=[f"--model={MODEL}"])


def _chosen(settings: ReportSettings, loads: Settings) -> Settings:
    """The loads that `--only` selects. Raises BadSettings."""
    names = [load.name for load in loads.comparisons]
    if unknown := [name for name in settings.only if name not in names]:
        raise BadSettings(f"--only {', '.join(unknown)}: allowed are {', '.join(names)}")
    chosen = tuple(load for load in loads.comparisons if not settings.only or load.name in settings.only)
    return msgspec.structs.replace(loads, comparisons=chosen)


async def _compare(load: Load, given: CompareSettings, console: Console) -> Chapter:
    plan, _ = await plan_of(given)
    with shown_progress(console) as show_progress:
        comparison = await compare(plan, comparison_progress(show_progress))
    thresholds = list(judge_thresholds(comparison, given.thresholds))
    console.print(comparison_table(comparison))
    for sentence in (*conclusions(comparison), *(f"{threshold.sentence}." for threshold in thresholds)):
        console.print(sentence)
    return Chapter(
        comparison,
        record_of(comparison, datetime.now()),
        given.shown_flags,
        thresholds=thresholds,
        title=load.title,
        about=load.about,
    )


def _save(chapter: Chapter, stem: Path) -> None:
    """Saves the figures as JSON and the plots as PNG."""
    save_record(stem.with_suffix(".json"), chapter.record)
    last = chapter.comparison.rounds[-1]
    for name, figure in (
        ("kv-cache", kv_usage_figure(last)),
        ("latency", latency_figure(chapter.comparison)),
        ("throughput", throughput_figure(last)),
    ):
        save_png(figure, stem.with_name(f"{stem.name}-{name}.png"))
