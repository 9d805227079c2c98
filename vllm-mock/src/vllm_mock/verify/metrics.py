"""Compares recorded pages of /metrics line by line, for the engine's families.

Compared are every `# TYPE` line and every sample of `vllm:` families, in order, with its labels and its value. For the
pages under load and after it, the workload of `metrics-workload.json` is replayed. Not compared are times (`_created`,
sums and buckets of `_seconds` histograms, but not their counts) and help texts, which the recordings lack.
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
    """A line of a page: a sample, or a `# TYPE` line, whose value is None."""

    text: str
    value: float | None


def verify_metrics(folder: Path) -> Iterator[Result]:
    """Yields one result for each recorded page, and one for the list of families."""
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
    """The lines of the engine's families, in order."""
    lines: list[Line] = []
    for line in text.splitlines():
        if line.startswith("# TYPE vllm:"):
            lines.append(Line(line, None))
        elif line.startswith("vllm:"):
            name, _, value = line.rpartition(" ")
            lines.append(Line(name, float(value)))
    return lines


def first_difference(recorded: Sequence[Line], ours: Sequence[Line]) -> str | None:
    """The first line that differs, except for times."""
    for theirs, mine in zip(recorded, ours, strict=False):
        if theirs.text != mine.text:
            return f"found {mine.text}, recorded {theirs.text}"
        if theirs.value != mine.value and not is_time(theirs.text):
            return f"{mine.text} is {mine.value}, recorded {theirs.value}"
    if len(recorded) != len(ours):
        longer = recorded if len(recorded) > len(ours) else ours
        which = "missing" if longer is recorded else "not recorded"
        return f"{longer[min(len(recorded), len(ours))].text} is {which}"
    return None


def is_time(name: str) -> bool:
    """Whether the value of a sample is a time or depends on times."""
    family = name.partition("{")[0]
    if family.endswith("_created") or family == "vllm:lora_requests_info":
        return True
    return "_seconds_" in family and family.endswith(("_sum", "_bucket"))


def config_of(text: str, start: ServeSettings) -> EngineConfig:
    """Settings of the server that rendered a page: `start` and the limits in its `vllm:cache_config_info`.

    Raises ValueError if the page has no such family.
    """
    limits = page_limits(text)
    if not limits:
        raise ValueError("the page has no vllm:cache_config_info")
    lora = "# TYPE vllm:lora_requests_info" in text
    return engine_config(start.model_copy(update={**limits, "enable_lora": lora}))


def _fresh(text: str, start: ServeSettings) -> str | None:
    """The difference from a server without any requests."""
    metrics = EngineMetrics(config_of(text, start), start.names[0])
    return first_difference(page_lines(text), page_lines(metrics.engine_text()))


def _replayed(text: str, workload: Json, start: ServeSettings, ended: bool) -> str | None:
    """The difference from an engine that replays the workload, to its end if `ended`."""
    recorded = workload.get("config", {})
    max_num_seqs = recorded.get("max_num_seqs", start.max_num_seqs)
    limits = {"max_num_seqs": max_num_seqs, **_flag_settings(recorded.get("extra_flags", ()))}
    engine = nearest(text, workload, replace(config_of(text, start), **limits), start, ended)
    return first_difference(page_lines(text), page_lines(engine.metrics.engine_text()))


def _flag_settings(flags: Sequence[str]) -> dict[str, int | bool]:
    """Settings from the server's flags that the page does not show. A later flag wins."""
    settings: dict[str, int | bool] = {}
    for flag, value in pairwise([*flags, ""]):
        name = flag.removeprefix("--").replace("-", "_")
        if name in ("max_num_batched_tokens", "max_num_seqs"):
            settings[name] = int(value)
        elif name == "no_enable_chunked_prefill":
            settings["enable_chunked_prefill"] = False
    return settings


def _families(recorded: Json, text: str) -> str | None:
    """The first difference in order, type, labels or buckets of the families."""
    order = [line.text.split()[2] for line in page_lines(text) if line.value is None]
    expected = [name for name in recorded["order"] if name.startswith("vllm:")]
    if order != expected:
        theirs, mine = next((pair for pair in zip(expected, order, strict=False) if pair[0] != pair[1]), ("", ""))
        return f"found {mine or 'nothing'}, recorded {theirs or 'nothing'} ({len(order)} of {len(expected)})"
    ours = _described(text)
    for name, family in recorded["vllm"].items():
        if ours[name] != family:
            return f"{name} is {ours[name]}, recorded {family}"
    return None


def _described(text: str) -> dict[str, Json]:
    """Families in the format of metrics-families.json."""
    described: dict[str, Json] = {}
    for name, kind, samples in _samples_by_family(text):
        labels = sorted({label for sample in samples for label in sample} - {"le"})
        described[name] = {"type": kind, "labels": labels}
        own = [label for label in labels if label not in ("engine", "model_name")]
        if own and name != "vllm:cache_config_info":
            described[name]["label_values"] = {label: sorted({sample[label] for sample in samples}) for label in own}
        if kind == "histogram":
            described[name]["buckets"] = [sample["le"] for sample in samples if "le" in sample]
    return described


def _samples_by_family(text: str) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """Yields the name, the type and the labels of the samples of each family."""
    name, kind, body = "", "", list[str]()
    for line in [*text.splitlines(), "# TYPE end end"]:
        if line.startswith("# TYPE"):
            if name:
                parsed = text_string_to_metric_families("\n".join(body))
                yield name, kind, [dict(sample.labels) for family in parsed for sample in family.samples]
            _, _, name, kind = line.split()
            body = []
        elif not line.startswith("#"):
            body.append(line)
