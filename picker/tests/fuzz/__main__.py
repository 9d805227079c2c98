"""Runs the fuzzer: `python -m fuzz`, or `make fuzz SECONDS=600`."""

import argparse
import secrets
import sys

from fuzz.runs import TARGETS, Counts, FuzzFailure, corpus, run_for, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Random use of the picker, with checks after each step.")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the runs")
    parser.add_argument("--seed", help="repeat one run of --target from this seed, which a failure prints")
    parser.add_argument("--target", choices=TARGETS, help="run only this target")
    options = parser.parse_args()
    counts = Counts()
    try:
        if options.seed is not None and "." in options.seed:
            run_one(options.target or "picks", options.seed, counts)
        else:
            seed = options.seed or secrets.token_hex(4)
            print(f"seed {seed}", flush=True)
            for target, corpus_seed in corpus():
                run_one(target, corpus_seed, counts)
            counts = run_for(options.seconds, seed, [options.target] if options.target else tuple(TARGETS))
    except FuzzFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    runs = ", ".join(f"{target} {count}" for target, count in counts.runs.items())
    print(f"runs: {runs}; {counts.streams} streams, {counts.messages} messages; no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
