"""A model's tokenizer from its folder: tokenizer.json, and the chat template in tokenizer_config.json."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec
from jinja2 import Template, TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as TokenizerFile

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.chat_template import qwen_chat_prompt
from vllm_mock.tokens.tokenizer import ChatTemplateError, Turn, byte_level_names, draw

_WORD = re.compile(r"[Ġ▁][a-z]{2,9}")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_COMMON_EOS = ("<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "</s>", "<|endoftext|>")
"""End-of-sequence tokens of common model families, tried in order if tokenizer_config.json names none."""


class InvalidTokenizer(Exception):
    """The folder has no usable tokenizer. The message contains the reason."""


class _SpecialToken(msgspec.Struct):
    content: str = ""


class _Config(msgspec.Struct):
    """The fields used of tokenizer_config.json."""

    chat_template: str | None = None
    eos_token: str | _SpecialToken | None = None
    bos_token: str | _SpecialToken | None = None


class FolderTokenizer:
    """Tokenizes as the model does. Generated text consists of words of its vocabulary."""

    def __init__(self, folder: Path) -> None:
        """Loads the tokenizer. Raises InvalidTokenizer."""
        file = folder / "tokenizer.json" if folder.is_dir() else folder
        try:
            self._file = TokenizerFile.from_file(str(file))
        # The library raises plain Exception for every error.
        except Exception as error:  # noqa: BLE001
            raise InvalidTokenizer(f"{file}: {error}") from None
        self._config = _read_config(file.parent / "tokenizer_config.json")
        self._template = _template(self._config.chat_template, folder)
        entries: dict[str, int] = self._file.get_vocab(with_added_tokens=True)
        self._names = {token: name for name, token in entries.items()}
        self._special = {token for token, added in self._file.get_added_tokens_decoder().items() if added.special}
        self._bytes = {name: byte for byte, name in byte_level_names().items()}
        self._byte_level = not any("▁" in name for name in entries)
        self._words = sorted(token for name, token in entries.items() if _WORD.fullmatch(name)) or sorted(
            set(entries.values()) - self._special
        )
        self.vocabulary = max(entries.values()) + 1
        configured = _text_of(self._config.eos_token)
        eos_names = [name for name in (configured, *_COMMON_EOS) if name in entries]
        self.end_of_sequence = entries[eos_names[0]] if eos_names else self.vocabulary

    def encode(self, text: str) -> list[int]:
        return self._file.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._file.decode([token for token in ids if token in self._names])

    def piece(self, token: int) -> bytes:
        name = self._names.get(token)
        if name is None or token in self._special:
            return b""
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        if not self._byte_level:
            return name.replace("▁", " ").encode()
        table = self._bytes
        return bytes(table[character] for character in name) if all(c in table for c in name) else name.encode()

    def name(self, token: int) -> str:
        return self._names.get(token, "")

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        if self._template is None:
            return qwen_chat_prompt(turns)
        try:
            return self._template.render(
                messages=[{"role": turn.role, "content": turn.content} for turn in turns],
                add_generation_prompt=True,
                bos_token=_text_of(self._config.bos_token),
                eos_token=_text_of(self._config.eos_token),
            )
        except TemplateError as error:
            raise ChatTemplateError(str(error)) from None

    def token(self, request: EngineRequest, position: int) -> int:
        return self._words[draw(request.seed, position, len(self._words))]


def _read_config(file: Path) -> _Config:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Config) if file.exists() else _Config()
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidTokenizer(f"{file}: {error}") from None


def _text_of(token: str | _SpecialToken | None) -> str:
    return token.content if isinstance(token, _SpecialToken) else token or ""


def _raise(message: str) -> None:
    raise TemplateError(message)


def _template(source: str | None, folder: Path) -> Template | None:
    """The compiled chat template, with the globals and whitespace settings that models' templates expect."""
    file = folder / "chat_template.jinja"
    if source is None and file.is_file():
        source = file.read_text()
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # Jinja does not declare the type of the values.
    names = cast(dict[str, object], environment.globals)  # pyright: ignore[reportUnknownMemberType]
    names["raise_exception"] = _raise
    names["strftime_now"] = lambda form: datetime.now().strftime(form)  # pyright: ignore
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InvalidTokenizer(f"{folder}: chat template: {error}") from None
