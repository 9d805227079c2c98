"""The flags of the data sets."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmark.datasets.files import FileDataset, custom_workload, sharegpt_workload
from benchmark.datasets.multi_turn import MultiTurn, multi_turn_workload
from benchmark.datasets.random_lengths import RandomLengths, random_workload
from benchmark.datasets.shared_prefix import SharedPrefix, shared_prefix_workload
from benchmark.settings.values import ratio, whole
from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Workload

Dataset = Callable[[Tokenizer, int], Workload]
"""Makes a workload from a tokenizer and a seed. Raises BadDataset, OSError."""

DATASETS = ("random", "sharegpt", "custom", "prefix_repetition", "multi_turn")
_IN_FILES = ("sharegpt", "custom")


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of all data sets. Each data set reads its own."""
    _add_common_flags(parser)
    _add_random_flags(parser)
    groups = SharedPrefix()
    shared = parser.add_argument_group("data set prefix_repetition: groups of prompts that share a prefix")
    shared.add_argument("--prefix-repetition-num-prefixes", type=whole(1), default=groups.prefixes, help="groups")
    shared.add_argument("--prefix-repetition-prefix-len", type=whole(0), default=groups.prefix_tokens)
    shared.add_argument("--prefix-repetition-suffix-len", type=whole(1), default=groups.suffix_tokens)
    shared.add_argument("--prefix-repetition-output-len", type=whole(1), default=groups.output_tokens)


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    sent = parser.add_argument_group("workload")
    sent.add_argument(
        "--dataset-name",
        choices=DATASETS,
        default="random",
        help="multi_turn (own): random conversations, turn by turn (default: random)",
    )
    sent.add_argument("--dataset-path", type=Path, help="file of sharegpt (JSON) or custom (a JSON object per line)")
    sent.add_argument("--num-prompts", type=whole(1), default=RandomLengths().prompts, help="requests (default: 1000)")
    sent.add_argument("--seed", type=whole(0), default=0)
    sent.add_argument("--ignore-eos", action="store_true", help="generate the full length; implied without a file")
    sent.add_argument("--sharegpt-output-len", type=whole(1), help="replaces the lengths of the answers in the file")
    sent.add_argument("--custom-output-len", type=whole(1), help="replaces the lengths in the file")
    sent.add_argument(
        "--num-turns",
        type=whole(1),
        help=f"(own) turns of a conversation, in multi_turn (default: {MultiTurn(RandomLengths()).turns}) and "
        "sharegpt (default: 1)",
    )


def _add_random_flags(parser: argparse.ArgumentParser) -> None:
    defaults = RandomLengths()
    sent = parser.add_argument_group("data sets random and multi_turn")
    sent.add_argument("--random-prefix-len", type=whole(0), default=defaults.prefix_tokens, help="shared by all")
    sent.add_argument("--random-input-len", type=whole(1), default=defaults.input_tokens, help="after the prefix")
    sent.add_argument("--random-output-len", type=whole(1), default=defaults.output_tokens)
    sent.add_argument(
        "--random-range-ratio",
        type=ratio,
        default=defaults.range_ratio,
        metavar="R",
        help="lengths L are uniform in [(1-R)L, (1+R)L], 0 <= R <= 1 (default: 0)",
    )
    sent.add_argument(
        "--old-random-range-ratio",
        action="store_true",
        help="(own) use vLLM's meaning of R until April 2025: uniform in [R*L, L]",
    )


def read_dataset(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Dataset:
    """The data set that the flags select. As argparse, exits 2 if --dataset-path is missing or not applicable."""
    if (given.dataset_name in _IN_FILES) != (given.dataset_path is not None):
        problem = "required with" if given.dataset_path is None else "not allowed with"
        parser.error(f"--dataset-path: {problem} --dataset-name {given.dataset_name}")
    makers: dict[str, Callable[[argparse.Namespace], Dataset]] = {
        "random": lambda given: partial(random_workload, _random(given)),
        "multi_turn": lambda given: partial(
            multi_turn_workload,
            MultiTurn(_random(given), given.num_turns) if given.num_turns else MultiTurn(_random(given)),
        ),
        "prefix_repetition": lambda given: partial(shared_prefix_workload, _shared_prefix(given)),
        "sharegpt": lambda given: partial(sharegpt_workload, _file(given, given.sharegpt_output_len)),
        "custom": lambda given: partial(custom_workload, _file(given, given.custom_output_len)),
    }
    return makers[given.dataset_name](given)


def _random(given: argparse.Namespace) -> RandomLengths:
    return RandomLengths(
        prompts=given.num_prompts,
        prefix_tokens=given.random_prefix_len,
        input_tokens=given.random_input_len,
        output_tokens=given.random_output_len,
        range_ratio=given.random_range_ratio,
        old_range_ratio=given.old_random_range_ratio,
    )


def _shared_prefix(given: argparse.Namespace) -> SharedPrefix:
    return SharedPrefix(
        prompts=given.num_prompts,
        prefixes=given.prefix_repetition_num_prefixes,
        prefix_tokens=given.prefix_repetition_prefix_len,
        suffix_tokens=given.prefix_repetition_suffix_len,
        output_tokens=given.prefix_repetition_output_len,
    )


def _file(given: argparse.Namespace, output_tokens: int | None) -> FileDataset:
    return FileDataset(given.dataset_path, given.num_prompts, output_tokens, given.num_turns or 1, given.ignore_eos)
