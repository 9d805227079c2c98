"""Sources of settings, their precedence, and the error messages."""

from pathlib import Path
from typing import Self

import pytest
from command_settings import CommandSettings, InvalidSettings
from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict


class Example(CommandSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    target: str
    timeout_s: float = Field(1.0, gt=0)
    retries: int = 0

    @model_validator(mode="after")
    def _retries_need_time(self) -> Self:
        if self.retries > self.timeout_s:
            raise ValueError("retries and timeout_s: allowed is one retry a second")
        return self


def read(*arguments: str) -> Example:
    return Example.read(arguments, "example")


def error_of(*arguments: str) -> str:
    with pytest.raises(InvalidSettings) as error:
        read(*arguments)
    return str(error.value)


def test_a_flag_overrides_a_variable_and_a_variable_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("target: file\ntimeout_s: 2\nretries: 2\n")
    monkeypatch.setenv("EXAMPLE_TIMEOUT_S", "3")
    monkeypatch.setenv("EXAMPLE_RETRIES", "3")
    settings = read(f"--config={file}", "--retries=1")
    assert (settings.target, settings.timeout_s, settings.retries) == ("file", 3.0, 1)


def test_a_variable_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("target: file\n")
    monkeypatch.setenv("EXAMPLE_CONFIG", str(file))
    assert read().target == "file"


def test_an_unknown_variable_is_rejected_with_the_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_RETRY", "1")
    assert error_of("--target=a") == (
        "environment EXAMPLE_RETRY: not a setting; allowed are "
        "EXAMPLE_CONFIG, EXAMPLE_RETRIES, EXAMPLE_TARGET, EXAMPLE_TIMEOUT_S"
    )


def test_an_unknown_key_of_the_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("retry: 1\n")
    assert error_of("--target=a", f"--config={file}") == "retry: not a setting"


def test_a_missing_setting_is_reported_with_its_flag_and_variable() -> None:
    assert error_of() == "target: missing; give --target, EXAMPLE_TARGET or a line in --config"


def test_each_wrong_value_has_a_line_with_the_value() -> None:
    lines = error_of("--target=a", "--timeout-s=0", "--retries=x").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["timeout_s", "retries"]
    assert [line.rpartition("; ")[2] for line in lines] == ["found '0'", "found 'x'"]


def test_an_error_of_several_settings_is_reported_as_written() -> None:
    assert error_of("--target=a", "--retries=2") == "retries and timeout_s: allowed is one retry a second"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"- a\n", "found list; allowed is a mapping of settings"),
        (b"a: [\n", "while parsing"),
        (b"\xff\xfe\x00", "can't decode byte 0xff"),
    ],
    ids=["list", "not YAML", "not text"],
)
def test_a_file_without_settings_is_rejected_by_name(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    error = error_of("--target=a", f"--config={file}")
    assert error.startswith(f"config {file}: ")
    assert problem in error


def test_a_missing_file_is_rejected_by_name(tmp_path: Path) -> None:
    file = tmp_path / "absent.yaml"
    assert error_of("--target=a", f"--config={file}").startswith(f"config {file}: [Errno 2] No such file")
