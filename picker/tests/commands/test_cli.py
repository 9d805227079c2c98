"""The `picker` command."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from manifests import TUTORIAL
from picker.commands import cli


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("serve", "standalone", "gateway", "validate", "teardown"))


def test_unknown_command_is_reported_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serv") == 2
    assert "unknown command 'serv'; allowed are serve, standalone, gateway, validate" in capsys.readouterr().err


def test_invalid_settings_exit_with_2_and_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("standalone", "--log-level=loud") == 2
    settings = {line.split(": ")[1] for line in capsys.readouterr().err.splitlines()}
    assert settings == {"manifests", "endpoints", "log_level"}


def test_package_can_add_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry = EntryPoint("greet", f"{__name__}:greet", cli.COMMANDS_GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])  # pyright: ignore[reportUnknownLambdaType]
    assert run("greet", "you") == 3
    assert "greeting you" in capsys.readouterr().out


def greet(arguments: list[str]) -> int:
    print("greeting", *arguments)
    return 3


def test_validate_exits_with_1_if_a_manifest_is_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", str(TUTORIAL)) == 0
    invalid = tmp_path / "pool.yaml"
    invalid.write_text((TUTORIAL / "inference-pool.yaml").read_text().replace("8000", "0"))
    assert run("validate", str(invalid)) == 1
    assert "spec.targetPortNumber" in capsys.readouterr().out


def test_serve_does_not_import_the_kubernetes_client() -> None:
    code = "import sys, picker.commands.cli, picker.commands.serve; print('lightkube' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
