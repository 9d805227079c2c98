"""The `vllm-mock` command line."""

import json
from pathlib import Path

import pytest
from command_settings import InvalidSettings
from recordings import FOLDER
from vllm_mock.cli import main
from vllm_mock.settings import ServeSettings


def read(*arguments: str) -> ServeSettings:
    return ServeSettings.read(arguments, "vllm-mock serve")


def exit_status(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code


def test_several_served_names_are_read_in_vllms_syntax() -> None:
    settings = read("/models/x", "--served-model-name", "a", "b", "--port", "81")
    assert (settings.model, settings.names, settings.port) == ("/models/x", ("a", "b"), 81)


def test_without_a_name_the_model_is_served_under_its_path() -> None:
    assert read("--model", "/models/x").names == ("/models/x",)


def test_flags_override_the_environment_which_overrides_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mock.yaml"
    file.write_text("port: 1\nseed: 1\nmax_loras: 1\nserved_model_name: [a]\n")
    monkeypatch.setenv("VLLM_MOCK_SEED", "2")
    monkeypatch.setenv("VLLM_MOCK_MAX_LORAS", "2")
    settings = read("--config", str(file), "--max-loras", "3")
    assert (settings.port, settings.seed, settings.max_loras, settings.names) == (1, 2, 3, ("a",))


def test_an_unknown_key_in_the_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "mock.yaml"
    file.write_text("time_scal: 3\n")
    with pytest.raises(InvalidSettings, match="time_scal: not a setting"):
        read("--config", str(file))


def test_an_unknown_environment_variable_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MOCK_TIMESCALE", "3")
    with pytest.raises(InvalidSettings, match="VLLM_MOCK_TIMESCALE: not a setting"):
        read()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--time-scale", "0"), "time_scale"),
        (("--preset", "h100"), "preset"),
        (("--lora-modules", "x"), "needs --enable-lora"),
        (("--enable-lora", "--lora-modules", "x"), "allowed is NAME=PATH"),
        (("--num-gpu-blocks-override", "10"), "found 4096; allowed are at most 144"),
        (("--kv-events-config", '{"endpont": 1}'), "unknown field `endpont`"),
    ],
)
def test_invalid_values_exit_2_with_a_message(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("serve", "--tokenizer", "approximate", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    from vllm_mock.api.running import listen

    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert exit_status("serve", "--tokenizer", "approximate", "--host", "127.0.0.1", "--port", port) == 1
    assert port in capsys.readouterr().err


def test_help_lists_the_commands_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--help") == 0
    assert "verify" in capsys.readouterr().out
    assert exit_status("serve", "--help") == 0
    output = capsys.readouterr().out
    for name in ServeSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in output


def test_fit_compares_the_presets_with_public_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("fit") == 0
    assert "derived, not measured" in capsys.readouterr().out


def test_fit_reads_several_files_and_reports_an_invalid_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, invalid = tmp_path / "rows.yaml", tmp_path / "invalid.yaml"
    rows.write_text("- {concurrency: 2, input_tokens: 50, output_tokens: 10, ttft_ms: 60, tpot_ms: 30}")
    invalid.write_text("hello")
    assert exit_status("fit", str(rows)) == 0
    assert exit_status("fit", str(rows), str(invalid)) == 1
    assert f"{invalid}: found neither" in capsys.readouterr().err


def test_a_folder_without_recordings_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("verify", str(tmp_path)) == 2
    assert "no recordings" in capsys.readouterr().err


def test_verify_exits_0_without_differences_and_1_with_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "http").mkdir()
    recorded = json.loads((FOLDER / "http" / "get-version.json").read_text())
    file = tmp_path / "http" / "get-version.json"
    file.write_text(json.dumps(recorded))
    assert exit_status("verify", str(tmp_path), "--only", "http") == 0
    output = capsys.readouterr().out
    assert "1 of 1 files the same" in output
    assert "Not compared" in output
    recorded["response"]["body"]["version"] = "0.33.0"
    file.write_text(json.dumps(recorded))
    assert exit_status("verify", str(tmp_path), "--only", "http") == 1
    assert "version is 0.32.0, recorded 0.33.0" in capsys.readouterr().out
