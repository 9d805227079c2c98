"""The data sets beside `random`."""

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


def said(tokens: int, letter: str = "x") -> str:
    """A text of so many tokens, four letters each."""
    return letter * (4 * tokens)


def sharegpt(path: Path, *conversations: list[str]) -> Path:
    entries = [
        {"id": str(index), "conversations": [{"from": "human", "value": value} for value in values]}
        for index, values in enumerate(conversations)
    ]
    path.write_text(json.dumps(entries))
    return path


def test_prompts_of_a_group_share_their_prefix_and_groups_do_not() -> None:
    """30 prompts of 7 groups: 4 or 5 in each."""
    workload = shared_prefix_workload(SharedPrefix(30, 7, 50, 10, 3), TOKENIZER, seed=1)
    groups = Counter(prompt.text[: 50 * 4] for prompt in workload)
    assert sorted(groups.values()) == [4] * 5 + [5] * 2
    assert len({prompt.text[50 * 4 :] for prompt in workload}) == 30
    assert all(TOKENIZER.count(prompt.text) == prompt.tokens == 60 for prompt in workload)


def test_the_groups_come_mixed() -> None:
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


def test_one_conversation_is_the_least() -> None:
    assert len(multi_turn_workload(MultiTurn(RandomLengths(1), turns=3), TOKENIZER, 0).conversations) == 1


def test_sharegpt_gives_questions_with_the_length_of_their_answers(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", [said(5, "q"), said(9, "a"), said(6, "q"), said(7, "a")])
    workload = sharegpt_workload(FileDataset(path, prompts=1), TOKENIZER, seed=0)
    (prompt,) = workload
    assert (prompt.text, prompt.tokens, prompt.output_tokens) == (said(5, "q"), 5, 9)
    assert not workload.ignore_eos


def test_sharegpt_plays_as_many_turns_as_asked_for(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", [said(5), said(9), said(6), said(7), said(8), said(4)])
    workload = sharegpt_workload(FileDataset(path, prompts=9, turns=2), TOKENIZER, seed=0)
    assert [[(turn.tokens, turn.output_tokens) for turn in turns] for turns in workload.conversations] == [
        *[[(5, 9), (6, 7)]] * 4,
        [(5, 9)],
    ]


@pytest.mark.parametrize("pair", [(3, 9), (9, 3), (1025, 10), (1000, 1049)], ids=str)
def test_sharegpt_passes_over_what_vllm_passes_over(tmp_path: Path, pair: tuple[int, int]) -> None:
    """Too short or too long; the other entry is taken instead, again."""
    path = sharegpt(tmp_path / "s.json", [said(pair[0]), said(pair[1])], [said(20), said(30)], [said(8)])
    workload = sharegpt_workload(FileDataset(path, prompts=2), TOKENIZER, seed=0)
    assert [prompt.tokens for prompt in workload] == [20, 20]
    assert "repeated" in workload.name


def test_the_order_of_a_file_depends_on_the_seed(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "s.json", *([said(tokens), said(9)] for tokens in range(4, 34)))
    orders = [
        [prompt.tokens for prompt in sharegpt_workload(FileDataset(path, 30), TOKENIZER, seed)] for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_questions_know_their_output_length_or_get_one(tmp_path: Path) -> None:
    """By the line, by its answer, by default; the flag goes before them all."""
    lines = [
        {"prompt": said(5), "output_tokens": 11, "answer": said(3)},
        {"question": said(6), "answer": said(12), "source": "made up"},
        {"question": said(7)},
        {"topic": "no question"},
    ]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    workload = custom_workload(FileDataset(path, 3), TOKENIZER, seed=0)
    assert {prompt.tokens: prompt.output_tokens for prompt in workload} == {5: 11, 6: 12, 7: 256}
    flagged = custom_workload(FileDataset(path, 3, output_tokens=2), TOKENIZER, seed=0)
    assert {prompt.output_tokens for prompt in flagged} == {2}


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"conversations": [{"value": 3}]}]', "[", "\xff"])
def test_what_is_no_sharegpt_is_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadDataset, match=r"bad\.json: .*allowed is a list of"):
        sharegpt_workload(FileDataset(path, 3), TOKENIZER, 0)


@pytest.mark.parametrize("entries", [[], [[said(1), said(1)]]])
def test_a_file_without_a_usable_entry_is_refused(tmp_path: Path, entries: list[list[str]]) -> None:
    path = sharegpt(tmp_path / "s.json", *entries)
    with pytest.raises(BadDataset, match="no usable entry"):
        sharegpt_workload(FileDataset(path, 3), TOKENIZER, 0)
