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
from vllm_mock.verify.arrivals import nearest
from vllm_mock.verify.result import Result
from vllm_mock.verify.trace_run import Json

_MODEL = "/model/qwen"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: a sample, or a `# TYPE` line (without value)."""

    text: str
    value: float | None


def verify_metrics(folder: Path) -> Iterator[Result]:
    """One result for each recorded page, and one for the list of families."""
    idle, loaded, after = (folder / f"metrics-{name}.txt" for name in ("idle", "loaded", "after"))
    if idle.exists():
        yield Result(idle.name, _fresh(idle.read_text()), f"{len(page_lines(idle.read_text()))} lines")
    workload = folder / "metrics-workload.json"
    for file in (loaded, after):
        if file.exists() and workload.exists():
            difference = _replayed(file.read_text(), json.loads(workload.read_text()), ended=file is after)
            yield Result(file.name, difference, "after replaying metrics-workload.json")
    families = folder / "metrics-families.json"
    if families.exists():
        recorded: Json = json.loads(families.read_text())
        config = config_of(after.read_text() if after.exists() else idle.read_text())
        note = f"{len(recorded['vllm'])} families"
        yield Result(families.name, _families(recorded, EngineMetrics(config, _MODEL).engine_text()), note)


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


def config_of(text: str, max_num_seqs: int = 256, max_loras: int = 1) -> EngineConfig:
    """The settings of the server that wrote a page, as its `vllm:cache_config_info` tells them."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == "vllm:cache_config_info" else ():
            labels = sample.labels
            blocks, size = int(labels["num_gpu_blocks"]), int(labels["block_size"])
            return EngineConfig(
                num_gpu_blocks=blocks,
                block_size=size,
                enable_prefix_caching=labels["enable_prefix_caching"] == "True",
                max_model_len=round(blocks * size / float(labels["kv_cache_max_concurrency"])),
                enable_lora="# TYPE vllm:lora_requests_info" in text,
                max_num_seqs=max_num_seqs,
                max_loras=max_loras,
            )
    raise ValueError("the page has no vllm:cache_config_info")


def _fresh(text: str) -> str | None:
    """Against a server that has done nothing yet."""
    return first_difference(page_lines(text), page_lines(EngineMetrics(config_of(text), _MODEL).engine_text()))


def _replayed(text: str, workload: Json, ended: bool) -> str | None:
    """Against an engine with the workload (`ended`: when all is done)."""
    settings = workload["config"]
    config = replace(config_of(text, max_num_seqs=settings["max_num_seqs"]), **_given(settings.get("extra_flags", ())))
    engine = nearest(text, workload, config, ended)
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
