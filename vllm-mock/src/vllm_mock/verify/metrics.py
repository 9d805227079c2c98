"""Recorded pages of /metrics: the engine's families, line by line.

Compared: every `# TYPE` line and every sample of `vllm:` families, in order, with its labels, and the values of all but
times. The workload of `metrics-workload.json` is replayed for the pages under load and after it. Not compared: times
(`_created`, sums and buckets of `_seconds` histograms; their counts are), and help texts, which the recordings lack.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.arrivals import nearest
from vllm_mock.verify.recorded_server import engine_config, page_limits, read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.trace_run import Json


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: a sample, or a `# TYPE` line (without value)."""

    text: str
    value: float | None


def verify_metrics(folder: Path) -> Iterator[Result]:
    """One result for each recorded page, and one for the list of families."""
    server = read_server(folder)
    idle, loaded, after = (folder / f"metrics-{name}.txt" for name in ("idle", "loaded", "after"))
    if idle.exists():
        page = idle.read_text()
        yield Result(idle.name, _fresh(page, server.settings(idle.name)), f"{len(page_lines(page))} lines")
    workload = folder / "metrics-workload.json"
    for file in (loaded, after):
        if file.exists() and workload.exists():
            start = server.settings(file.name)
            sent: Json = json.loads(workload.read_text())
            difference = _replayed(file.read_text(), sent, start, ended=file is after)
            yield Result(file.name, difference, "after replaying metrics-workload.json")
    families = folder / "metrics-families.json"
    if families.exists():
        recorded: Json = json.loads(families.read_text())
        newest = after if after.exists() else idle
        start = server.settings(newest.name)
        config = config_of(newest.read_text(), start)
        note = f"{len(recorded['vllm'])} families"
        yield Result(families.name, _families(recorded, EngineMetrics(config, start.names[0]).engine_text()), note)


def page_lines(text: str) -> list[Line]:
    """The engine's lines of a page, in order."""
    lines: list[Line] = []
    for line in text.splitlines():
        if line.startswith("# TYPE vllm:"):
            lines.append(Line(line, None))
        elif line.startswith("vllm:"):
            name, _, value = line.rpartition(" ")
            lines.append(Line(name, float(value)))
    return lines


def first_difference(recorded: Sequence[Line], ours: Sequence[Line]) -> str | None:
    """The first line that is not the same, times excepted."""
    for theirs, mine in zip(recorded, ours, strict=False):
        if theirs.text != mine.text:
            return f"{mine.text} stands where {theirs.text} is recorded"
        if theirs.value != mine.value and not is_time(theirs.text):
            return f"{mine.text} is {mine.value}, recorded {theirs.value}"
    if len(recorded) != len(ours):
        longer = recorded if len(recorded) > len(ours) else ours
        which = "missing" if longer is recorded else "not recorded"
        return f"{longer[min(len(recorded), len(ours))].text} is {which}"
    return None


def is_time(name: str) -> bool:
    """Whether the value of a sample is, or follows from, a time."""
    family = name.partition("{")[0]
    if family.endswith("_created") or family == "vllm:lora_requests_info":
        return True
    return "_seconds_" in family and family.endswith(("_sum", "_bucket"))


def config_of(text: str, start: ServeSettings) -> EngineConfig:
    """The settings of the server that wrote a page: `start`, and what its `vllm:cache_config_info` shows."""
    limits = page_limits(text)
    if not limits:
        raise ValueError("the page has no vllm:cache_config_info")
    lora = "# TYPE vllm:lora_requests_info" in text
    return engine_config(start.model_copy(update={**limits, "enable_lora": lora}))


def _fresh(text: str, start: ServeSettings) -> str | None:
    """Against a server that has done nothing yet."""
    metrics = EngineMetrics(config_of(text, start), start.names[0])
    return first_difference(page_lines(text), page_lines(metrics.engine_text()))


def _replayed(text: str, workload: Json, start: ServeSettings, ended: bool) -> str | None:
    """Against an engine with the workload (`ended`: when all is done)."""
    said = workload.get("config", {})
    limits = {"max_num_seqs": said.get("max_num_seqs", start.max_num_seqs), **_given(said.get("extra_flags", ()))}
    engine = nearest(text, workload, replace(config_of(text, start), **limits), start, ended)
    return first_difference(page_lines(text), page_lines(engine.metrics.engine_text()))


def _given(flags: Sequence[str]) -> dict[str, int | bool]:
    """Settings that the page does not tell, from the flags with which its server was started; a later one wins."""
    settings: dict[str, int | bool] = {}
    for flag, value in pairwise([*flags, ""]):
        name = flag.removeprefix("--").replace("-", "_")
        if name in ("max_num_batched_tokens", "max_num_seqs"):
            settings[name] = int(value)
        elif name == "no_enable_chunked_prefill":
            settings["enable_chunked_prefill"] = False
    return settings


def _families(recorded: Json, text: str) -> str | None:
    """Order, type, labels and buckets of each family."""
    order = [line.text.split()[2] for line in page_lines(text) if line.value is None]
    expected = [name for name in recorded["order"] if name.startswith("vllm:")]
    if order != expected:
        theirs, mine = next((pair for pair in zip(expected, order, strict=False) if pair[0] != pair[1]), ("", ""))
        return f"{mine or 'nothing'} stands where {theirs or 'nothing'} is recorded ({len(order)} of {len(expected)})"
    ours = _described(text)
    for name, family in recorded["vllm"].items():
        if ours[name] != family:
            return f"{name} is {ours[name]}, recorded {family}"
    return None


def _described(text: str) -> dict[str, Json]:
    """Families as metrics-families.json describes them."""
    described: dict[str, Json] = {}
    for name, kind, samples in _samples_by_family(text):
        labels = sorted({label for each in samples for label in each} - {"le"})
        described[name] = {"type": kind, "labels": labels}
        own = [label for label in labels if label not in ("engine", "model_name")]
        if own and name != "vllm:cache_config_info":
            described[name]["label_values"] = {label: sorted({each[label] for each in samples}) for label in own}
        if kind == "histogram":
            described[name]["buckets"] = [each["le"] for each in samples if "le" in each]
    return described


def _samples_by_family(text: str) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """Name, type and the labels of each sample."""
    name, kind, body = "", "", list[str]()
    for line in [*text.splitlines(), "# TYPE end end"]:
        if line.startswith("# TYPE"):
            if name:
                parsed = text_string_to_metric_families("\n".join(body))
                yield name, kind, [dict(each.labels) for family in parsed for each in family.samples]
            _, _, name, kind = line.split()
            body = []
        elif not line.startswith("#"):
            body.append(line)
