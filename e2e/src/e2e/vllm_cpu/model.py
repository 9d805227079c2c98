"""A tiny Qwen2 model: a configuration and a tokenizer, without weights.

vLLM makes random weights itself (`--load-format dummy`), so nothing is downloaded. The answers mean nothing. Lengths,
caches and times are as real as with any model."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

VOCABULARY = 4096
MAX_TOKENS = 4096
"""Longest prompt with its answer."""

_END, _TURN_START, _TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_TOKENS,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
"""4 million parameters. Judgement: a prompt of 1,250 tokens takes a core some tenths of a second, which is long enough
to see whether it was cached."""


def make_model(folder: Path) -> None:
    """Writes the model's files into `folder`, which is made. Every call writes the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer().save(str(folder / "tokenizer.json"))
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", {"bos_token_id": 0, "eos_token_id": 0}),
        ("tokenizer_config.json", _tokenizer_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _END,
        "chat_template": _CHAT_TEMPLATE,
        "model_max_length": MAX_TOKENS,
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer() -> Tokenizer:
    """Byte-level BPE, as Qwen2 has it, trained on made-up words."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (_END, _TURN_START, _TURN_END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    return tokenizer


def _words() -> Iterator[str]:
    """Words of two and three syllables, each behind a blank: enough of them to fill the vocabulary."""
    syllables = ["".join(parts) for parts in product("bdfgklmnprst", "aeiou")]
    for first, second in product(syllables, syllables):
        yield f" {first}{second}"
        yield f" {first}{second}{syllables[len(first + second) % len(syllables)]}"
