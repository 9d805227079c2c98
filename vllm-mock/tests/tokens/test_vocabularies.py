"""Tokenizers: the Qwen vocabulary, a model's folder, and the approximate one."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import decoders, models, pre_tokenizers, trainers
from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.tokens.folder import FolderTokenizer, InvalidTokenizer
from vllm_mock.tokens.qwen import QwenTokenizer
from vllm_mock.tokens.tokenizer import ChatTemplateError, Turn

QWEN = QwenTokenizer()


def test_the_tutorials_prompt_has_39_tokens() -> None:
    turns = [Turn("user", "Write as if you were a critic: San Francisco")]
    assert len(QWEN.encode(QWEN.chat_prompt(turns))) == 39


@given(st.text(max_size=40))
def test_qwen_decodes_what_it_encodes(text: str) -> None:
    ids = QWEN.encode(text)
    assume(QWEN.end_of_sequence not in ids)
    assert QWEN.decode(ids) == text
    assert b"".join(map(QWEN.piece, ids)).decode() == text


def test_special_tokens_have_a_name_and_no_text() -> None:
    assert QWEN.piece(QWEN.end_of_sequence) == b""
    assert QWEN.name(QWEN.end_of_sequence) == "<|im_end|>"
    assert QWEN.decode([10**9]) == ""


@given(st.text(max_size=60), st.text(max_size=20))
def test_approximate_texts_with_equal_prefixes_share_tokens(text: str, more: str) -> None:
    tokenizer = ApproximateTokenizer()
    ids, longer = tokenizer.encode(text), tokenizer.encode(text + more)
    whole = len(text.encode()) // 4
    assert ids[:whole] == longer[:whole]
    assert tokenizer.decode(ids) == text


def test_an_approximate_output_consists_of_words() -> None:
    tokenizer = ApproximateTokenizer()
    request = EngineRequest(request_id="r", prompt=(1,), max_tokens=4)
    words = tokenizer.decode([tokenizer.token(request, position) for position in range(4)])
    assert len(words.split()) == 4
    assert tokenizer.encode(words) == [tokenizer.token(request, position) for position in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tokenizer of a small model."""
    file = TokenizerFile(models.BPE())
    file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    file.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    file.train_from_iterator(["the rain and the wind and the rain again"] * 4, trainer)
    file.save(str(tmp_path / "tokenizer.json"))
    template = (
        "{% for m in messages %}[{{m.role}}]{{m.content}}{% endfor %}{{ raise_exception('no') if messages|length > 2 }}"
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": template}))
    return tmp_path


def test_a_folders_tokenizer_encodes_and_decodes_as_its_model(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder)
    ids = tokenizer.encode("the rain é")
    assert b"".join(map(tokenizer.piece, ids)).decode() == "the rain é"
    assert tokenizer.decode(ids) == "the rain é"
    assert tokenizer.name(tokenizer.end_of_sequence) == "<eos>"
    assert tokenizer.chat_prompt([Turn("user", "x")]) == "[user]x"


def test_a_conversation_that_the_template_rejects_is_an_error(folder: Path) -> None:
    with pytest.raises(ChatTemplateError, match="no"):
        FolderTokenizer(folder).chat_prompt([Turn("user", "x")] * 3)


def test_a_folder_without_a_tokenizer_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidTokenizer, match=str(tmp_path)):
        FolderTokenizer(tmp_path)
