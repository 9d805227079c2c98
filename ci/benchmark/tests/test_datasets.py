"""The data sets other than `random`."""

import json
from collections import Counter
from pathlib import Path

import pytest
from benchmark.datasets.files import BadDataset, FileDataset, custom_workload, sharegpt_workload
from benchmark.datasets.multi_turn import MultiTurn, multi_turn_workload
from benchmark.datasets.random_lengths import RandomLengths
from benchmark.datasets.shared_prefix import SharedPrefix, shared_prefix_workload
from benchmark.tokens.approximate import ApproximateTokenizer

TOKENIZER = ApproximateTokenizer()


def text_of(tokens: int, letter: str = "x") -> str:
    """A text of `tokens` tokens, with four letters per token."""
    return letter * (4 * tokens)


def sharegpt(path: Path, *conversations: list[str]) -> Path:
    entries = [
        {"id": str(index), "conversations": [{"from": "human", "value": value} for value in values]}
        for index, values in enumerate(conversations)
    ]
    path.write_text(json.dumps(entries))
    return path


def test_prompts_of_a_group_share_their_prefix_and_groups_do_not() -> None:
    """30 prompts in 7 groups: 4 or 5 per group."""
    workload = shared_prefix_workload(SharedPrefix(30, 7, 50, 10, 3), TOKENIZER, seed=1)
    groups = Counter(prompt.text[: 50 * 4] for prompt in workload)
    assert sorted(groups.values()) == [4] * 5 + [5] * 2
    assert len({prompt.text[50 * 4 :] for prompt in workload}) == 30
    assert all(TOKENIZER.count(prompt.text) == prompt.tokens == 60 for prompt in workload)


def test_the_prompts_of_the_groups_are_mixed() -> None:
    workload = shared_prefix_workload(SharedPrefix(40, 4, 5, 5, 1), TOKENIZER, seed=0)
    first_quarter = [prompt.text[:20] for prompt in workload][:10]
    assert len(set(first_quarter)) > 1


def test_conversations_have_their_turns_and_share_the_opening() -> None:
    workload = multi_turn_workload(MultiTurn(RandomLengths(20, 30, 10, 5), turns=4), TOKENIZER, seed=2)
    assert [len(turns) for turns in workload.conversations] == [4] * 5
    assert len(workload) == 20
    assert len({turns[0].text[: 30 * 4] for turns in workload.conversations}) == 1
    assert [prompt.tokens for prompt in workload.conversations[0]] == [40, 10, 10, 10]
    assert len({prompt.text for prompt in workload}) == 20


def test_there_is_at_least_one_conversation() -> None:
    assert len(multi_turn_workload(MultiTurn(RandomLengths(1), turns=3), TOKENIZER, 0).conversations) == 1


def test_a_sharegpt_question_requests_the_length_of_its_answer(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", [text_of(5, "q"), text_of(9, "a"), text_of(6, "q"), text_of(7, "a")])
    workload = sharegpt_workload(FileDataset(path, prompts=1), TOKENIZER, seed=0)
    (prompt,) = workload
    assert (prompt.text, prompt.tokens, prompt.output_tokens) == (text_of(5, "q"), 5, 9)
    assert not workload.ignore_eos


def test_a_sharegpt_conversation_has_at_most_the_configured_turns(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", [text_of(5), text_of(9), text_of(6), text_of(7), text_of(8), text_of(4)])
    workload = sharegpt_workload(FileDataset(path, prompts=9, turns=2), TOKENIZER, seed=0)
    assert [[(turn.tokens, turn.output_tokens) for turn in turns] for turns in workload.conversations] == [
        *[[(5, 9), (6, 7)]] * 4,
        [(5, 9)],
    ]


@pytest.mark.parametrize("pair", [(3, 9), (9, 3), (1025, 10), (1000, 1049)], ids=str)
def test_sharegpt_skips_the_entries_that_vllm_skips(tmp_path: Path, pair: tuple[int, int]) -> None:
    """An entry that is too short or too long is skipped, and the other entry is repeated."""
    path = sharegpt(tmp_path / "s.json", [text_of(pair[0]), text_of(pair[1])], [text_of(20), text_of(30)], [text_of(8)])
    workload = sharegpt_workload(FileDataset(path, prompts=2), TOKENIZER, seed=0)
    assert [prompt.tokens for prompt in workload] == [20, 20]
    assert "repeated" in workload.name


def test_the_order_of_a_file_depends_on_the_seed(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", *([text_of(tokens), text_of(9)] for tokens in range(4, 34)))
    orders = [
        [prompt.tokens for prompt in sharegpt_workload(FileDataset(path, 30), TOKENIZER, seed)] for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_the_output_length_is_of_the_flag_the_line_the_answer_or_the_default(tmp_path: Path) -> None:
    lines = [
        {"prompt": text_of(5), "output_tokens": 11, "answer": text_of(3)},
        {"question": text_of(6), "answer": text_of(12), "source": "made up"},
        {"question": text_of(7)},
        {"topic": "no question"},
    ]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    workload = custom_workload(FileDataset(path, 3), TOKENIZER, seed=0)
    assert {prompt.tokens: prompt.output_tokens for prompt in workload} == {5: 11, 6: 12, 7: 256}
    flagged = custom_workload(FileDataset(path, 3, output_tokens=2), TOKENIZER, seed=0)
    assert {prompt.output_tokens for prompt in flagged} == {2}


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"conversations": [{"value": 3}]}]', "[", "\xff"])
def test_an_invalid_sharegpt_file_is_rejected_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadDataset, match=r"bad\.json: .*allowed is a list of"):
        sharegpt_workload(FileDataset(path, 3), TOKENIZER, 0)


@pytest.mark.parametrize("entries", [[], [[text_of(1), text_of(1)]]])
def test_a_file_without_a_usable_entry_is_rejected(tmp_path: Path, entries: list[list[str]]) -> None:
    path = sharegpt(tmp_path / "s.json", *entries)
    with pytest.raises(BadDataset, match="no usable entry"):
        sharegpt_workload(FileDataset(path, 3), TOKENIZER, 0)
