"""Settings from flags, environment and file, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest
from command_settings import InvalidSettings
from picker.endpoints.metrics.schedule import JITTER, ScrapeIntervals
from picker.scheduling.saturation import STALE_AFTER_S
from picker.settings import ServeSettings, StandaloneSettings, flags

GIVEN = ("--manifests=m", "--endpoints=e.yaml")


def read(*arguments: str) -> ServeSettings:
    return ServeSettings.read(list(arguments), "picker serve")


def refused(*arguments: str) -> str:
    with pytest.raises(InvalidSettings) as error:
        read(*arguments)
    return str(error.value)


def test_a_flag_stands_above_the_environment_and_that_above_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "picker.yaml"
    file.write_text("log_level: error\nscrape_interval_s: 3\npool: a/b\n")
    monkeypatch.setenv("PICKER_LOG_LEVEL", "warning")
    monkeypatch.setenv("PICKER_SCRAPE_INTERVAL_S", "2")
    settings = read(*GIVEN, f"--config={file}", "--log-level=debug")
    assert (settings.log_level, settings.scrape_interval_s, settings.pool) == ("debug", 2.0, "a/b")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "picker.yaml"
    file.write_text("log_level: error\n")
    monkeypatch.setenv("PICKER_CONFIG", str(file))
    assert read(*GIVEN).log_level == "error"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--log-level=loud"], "log_level: "),
        (["--ext-proc-address=9002"], "ext_proc_address: allowed is IP:PORT"),
        (["--scrape-interval-s=0"], "scrape_interval_s: "),
        (["--max-body-bytes=-1"], "max_body_bytes: "),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(arguments: list[str], said: str) -> None:
    assert said in refused(*GIVEN, *arguments)


def test_an_unknown_key_is_refused_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "picker.yaml"
    file.write_text("log_levle: debug\n")
    assert "log_levle: not a setting" in refused(*GIVEN, f"--config={file}")
    monkeypatch.setenv("PICKER_LOG_LEVLE", "debug")
    assert "PICKER_LOG_LEVLE: not a setting" in refused(*GIVEN)


def test_a_missing_setting_is_told_with_the_ways_to_give_it() -> None:
    with pytest.raises(InvalidSettings) as error:
        StandaloneSettings.read(["--endpoints=e.yaml"], "picker standalone")
    assert str(error.value) == "manifests: missing; give --manifests, PICKER_MANIFESTS or a line in --config"


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    assert "No such file" in refused(*GIVEN, f"--config={tmp_path / 'none.yaml'}")
    file = tmp_path / "list.yaml"
    file.write_text("- a\n")
    assert "allowed is a mapping of settings" in refused(*GIVEN, f"--config={file}")


def test_settings_survive_being_handed_to_a_process_as_flags() -> None:
    given = [*GIVEN, "--pool=a/b", "--scrape-interval-s=0.5", "--unknown-models=refuse", "--flow-control"]
    given += [f"--trusted-headers=x-gateway-inference-{name}" for name in ("objective", "fairness-id")]
    standalone = StandaloneSettings.read([*given, "--listen-ip=127.0.0.1"], "picker standalone")
    again = read(*flags(standalone, ServeSettings))
    shared = set(ServeSettings.model_fields) & set(StandaloneSettings.model_fields)
    assert again.model_dump(include=shared) == standalone.model_dump(include=shared)


@pytest.mark.parametrize(
    "value",
    ['["x-gateway-inference-objective","x-gateway-inference-fairness-id"]', '["x-gateway-inference-objective"]'],
)
def test_trusted_headers_may_be_named_in_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICKER_TRUSTED_HEADERS", value)
    assert read(*GIVEN).trusted_headers == json.loads(value)


def test_only_headers_that_are_obeyed_can_be_trusted() -> None:
    assert "x-gateway-inference-objective" in refused(*GIVEN, "--trusted-headers=x-client-id")


def test_an_earlier_name_can_be_trusted_only_while_it_is_read() -> None:
    legacy = "--trusted-headers=x-gateway-inference-objective"
    assert "not read without legacy-names" in refused(*GIVEN, legacy, "--no-legacy-names")
    assert read(*GIVEN, "--trusted-headers=x-llm-d-inference-objective", "--no-legacy-names").trusted_headers


@pytest.mark.parametrize("name", ["", "X-Session", ":path", "a b", "x" * 65])
def test_a_sessions_header_has_a_valid_name(name: str) -> None:
    assert "session_headers" in refused(*GIVEN, f"--session-headers={name}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--peers=10.0.0.1:9005",), "peers: needs peer-address"),
        ((*GIVEN, "--peer-address=[::]:9005", "--peers=10.0.0.1"), "peers: allowed is HOST:PORT, found 10.0.0.1"),
        (("--peer-address=[::]:9005",), "peer-address: needs service"),
        (
            (*GIVEN, "--peer-address=[::]:9005", "--tls-certificate=c", "--tls-key=k"),
            "peer-address: with tls-certificate it needs tls-client-ca",
        ),
    ],
)
def test_peers_that_could_not_be_reached_are_rejected(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*arguments)


@pytest.mark.parametrize(
    "arguments", [(*GIVEN, '--peers=["picker-1:9005", "[::1]:9005"]'), ("--service=ai/picker",)], ids=str
)
def test_peers_are_listed_or_those_of_the_service(arguments: tuple[str, ...]) -> None:
    assert read("--peer-address=[::]:9005", *arguments).peer_address == "[::]:9005"


def test_scrapes_that_are_as_rare_as_allowed_are_in_time_to_reject_requests() -> None:
    """Also if one of them times out, with the longest jitter."""
    longest_s = 2.5
    assert f"less than or equal to {longest_s}" in refused(*GIVEN, "--scrape-max-interval-s=2.6")
    settings = read(*GIVEN, f"--scrape-max-interval-s={longest_s}")
    intervals = ScrapeIntervals(settings.scrape_interval_s, settings.scrape_max_interval_s)
    assert longest_s * (1 + JITTER) + settings.scrape_timeout_s + intervals.retry_after_s < STALE_AFTER_S
