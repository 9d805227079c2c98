"""`make bench-report` with small loads, and the files that it writes."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
import yaml
from e2e.report.fleet import FLEETS

KIND = Path(__file__).parents[2] / "ci" / "nightly" / "kind"
LOADS = """
rounds: 1
comparisons:
- {name: random, strategy: DEFAULT, load: --random-input-len 20 --random-output-len 5 --num-prompts 12}
- {name: shared, strategy: PREFIX_CACHE, load: --dataset-name prefix_repetition --num-prompts 12}
"""


@pytest.mark.timeout(120)
async def test_each_load_has_a_chapter_figures_and_plots(tmp_path: Path) -> None:
    (tmp_path / "loads.yaml").write_text(LOADS)
    command = Path(sys.executable).with_name("gateway-report")
    process = await asyncio.create_subprocess_exec(
        command, "--loads", tmp_path / "loads.yaml", "--out", tmp_path / "out", stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    plots = [f"{load}-{what}.png" for load in ("random", "shared") for what in ("kv-cache", "latency", "throughput")]
    assert names == sorted(["report.html", "random.json", "shared.json", *plots])
    record = json.loads((tmp_path / "out" / "shared.json").read_text())
    assert [contender["name"] for contender in record["contenders"]] == ["port 8080", "port 8081"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<section") == 2
    assert "KV cache spread (std) (%)" in page


def test_the_servers_are_those_of_the_nightly_job_on_kind() -> None:
    """The two reports are then comparable."""
    values = yaml.safe_load((KIND / "values.yaml").read_text())["vllm"]
    deployment = yaml.safe_load((KIND / "l20.yaml").read_text())["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    pods = [(values["replicas"], values["arguments"]), (deployment["replicas"], container["args"][2:])]
    assert pods == [
        (fleet.replicas, [f"--preset={fleet.preset}", f"--time-scale={fleet.time_scale:g}", *fleet.arguments])
        for fleet in FLEETS
    ]


async def test_wrong_usage_exits_2_with_a_message(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("gateway-report")
    process = await asyncio.create_subprocess_exec(
        command, "--only", "nothing", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"nothing: allowed are default, prefix-cache" in errors
