"""Settings of a command, read from flags, environment variables and a YAML file, in this order of precedence.

pydantic-settings reads flags and variables. Its YAML source cannot be used for `--config`: the file's name is itself a
setting, and a missing file would be ignored. Nor does it reject unknown variables.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)


class InvalidSettings(Exception):
    """Settings that cannot be used; the message has a line for each problem."""


class CommandSettings(BaseSettings):
    """Base of a command's settings. A subclass sets `env_prefix` in its `model_config`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    config: Path | None = Field(None, description="YAML file with any of these settings, keys in snake_case")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The YAML file's values are passed as init values, which are the weakest source here.
        return env_settings, init_settings

    @classmethod
    def read(cls, arguments: Sequence[str], program: str) -> Self:
        """Settings from `arguments` (flags), the environment, and the YAML file that either names.

        Raises InvalidSettings. `--help` prints and exits as argparse does."""
        prefix = cls.model_config.get("env_prefix", "")
        _reject_unknown_variables(cls, prefix)
        try:
            cli = CliSettingsSource[Self](
                cls, cli_prog_name=program, cli_parse_args=list(arguments), cli_show_env_vars=True
            )
            # pydantic's synthesised signature hides the source that BaseSettings.__init__ takes.
            return cls(
                _cli_settings_source=cli,  # pyright: ignore[reportCallIssue]
                **_file_values(arguments, f"{prefix}CONFIG"),
            )
        except ValidationError as error:
            raise InvalidSettings("\n".join(_error_message(details, prefix) for details in error.errors())) from None
        except SettingsError as error:
            raise InvalidSettings(str(error)) from None


def _file_values(arguments: Sequence[str], variable: str) -> dict[str, Any]:
    """The settings in the file that `--config` or the environment variable names. Raises InvalidSettings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(variable))
    path = parser.parse_known_args(list(arguments))[0].config
    if path is None:
        return {}
    try:
        values: object = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"config {path}: {error}") from None
    if not isinstance(values, dict):
        raise InvalidSettings(f"config {path}: found {type(values).__name__}; allowed is a mapping of settings")
    return {str(key): value for key, value in cast(dict[object, Any], values).items()}


def _reject_unknown_variables(settings: type[BaseSettings], prefix: str) -> None:
    """Raises InvalidSettings: a misspelt variable would have no effect, without a message."""
    known = {prefix + name.upper() for name in settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise InvalidSettings(
            "\n".join(f"environment {name}: not a setting; allowed are {allowed}" for name in unknown)
        )


def _error_message(error: ErrorDetails, prefix: str) -> str:
    """One validation error as `setting: problem`. An error of several settings has no location: its text names them."""
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    setting = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        flag = "--" + setting.replace("_", "-")
        return f"{setting}: missing; give {flag}, {prefix}{setting.upper()} or a line in --config"
    if error["type"] == "extra_forbidden":
        return f"{setting}: not a setting"
    return f"{setting}: {error['msg'].removeprefix('Value error, ')}; found {error['input']!r}"
