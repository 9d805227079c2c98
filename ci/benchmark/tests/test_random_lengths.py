"""The data set `random`."""

import pytest
from benchmark.datasets.random_lengths import RandomLengths, random_workload
from benchmark.tokens.approximate import ApproximateTokenizer
from benchmark.tokens.qwen import QwenTokenizer
from hypothesis import given
from hypothesis import strategies as st
from recorded_bench import recording

TOKENIZER = ApproximateTokenizer()


@pytest.mark.parametrize("name", ["random-concurrency", "random-rate"])
def test_the_lengths_are_those_that_vllm_draws(name: str) -> None:
    """The flags and the seed are those of the recording. Its output lengths are exact. Its input lengths differ from
    the plan by a few tokens, which its log reports (17 and 8)."""
    run = recording(f"bench/{name}.json")
    flags = dict(zip(run["command"][3:], run["command"][4:], strict=False))
    workload = random_workload(
        RandomLengths(
            prompts=int(flags["--num-prompts"]),
            prefix_tokens=int(flags.get("--random-prefix-len", 0)),
            input_tokens=int(flags["--random-input-len"]),
            output_tokens=int(flags["--random-output-len"]),
            range_ratio=float(flags.get("--random-range-ratio", 0)),
        ),
        TOKENIZER,
        seed=0,
    )
    assert sum(prompt.output_tokens for prompt in workload) == run["result"]["total_output_tokens"]
    off_plan = {"random-concurrency": 17, "random-rate": 8}[name]
    assert sum(prompt.tokens for prompt in workload) == run["result"]["total_input_tokens"] - off_plan


@given(st.integers(0, 30), st.integers(1, 200), st.floats(0, 0.99), st.booleans(), st.integers(0, 2**32))
def test_a_prompt_has_exactly_its_planned_tokens(
    prefix: int, length: int, ratio: float, old_meaning: bool, seed: int
) -> None:
    settings = RandomLengths(5, prefix, length, 10, ratio, old_meaning)
    for prompt in random_workload(settings, TOKENIZER, seed):
        assert TOKENIZER.count(prompt.text) == prompt.tokens


def test_words_of_the_qwen_vocabulary_stay_one_token_side_by_side() -> None:
    """Prompts therefore keep their length when the server tokenizes them."""
    tokenizer = QwenTokenizer()
    for prompt in random_workload(RandomLengths(40, 10, 1550, 1800, 0.2), tokenizer, seed=3):
        assert tokenizer.count(prompt.text) == prompt.tokens


@given(st.integers(1, 300), st.floats(0, 0.99))
def test_a_range_ratio_spreads_lengths_to_both_sides(length: int, ratio: float) -> None:
    workload = random_workload(RandomLengths(20, 0, length, length, ratio), TOKENIZER, seed=1)
    for prompt in workload:
        assert length * (1 - ratio) - 1 <= prompt.tokens <= length * (1 + ratio) + 1
        assert max(1, length * (1 - ratio) - 1) <= prompt.output_tokens <= length * (1 + ratio) + 1


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_old_range_ratio_only_shortens(length: int, ratio: float) -> None:
    workload = random_workload(RandomLengths(20, 0, length, length, ratio, old_range_ratio=True), TOKENIZER, seed=1)
    for prompt in workload:
        assert int(length * ratio) <= prompt.tokens <= length
        assert 1 <= prompt.output_tokens <= length


def test_all_prompts_share_the_prefix_and_nothing_after_it() -> None:
    texts = [prompt.text for prompt in random_workload(RandomLengths(50, 10, 100, 1), TOKENIZER, seed=0)]
    assert len({text[: 10 * 4] for text in texts}) == 1
    assert len({text[10 * 4 : 18 * 4] for text in texts}) == 50


def test_equal_seeds_make_equal_workloads_and_others_do_not() -> None:
    first, again, other = (random_workload(RandomLengths(3, 2, 20, 5, 0.5), TOKENIZER, seed) for seed in (7, 7, 8))
    assert first == again
    assert first.conversations != other.conversations


def test_a_salt_precedes_every_conversation() -> None:
    workload = random_workload(RandomLengths(3, 2, 20, 5), TOKENIZER, 0)
    salted = workload.salted("a 1")
    assert all(prompt.text == f"a 1\n{plain.text}" for prompt, plain in zip(salted, workload, strict=True))
