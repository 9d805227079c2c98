"""`python -m fuzz`, or `make fuzz SECONDS=600`."""

import argparse
import secrets
import sys

from fuzz.runs import TARGETS, Counts, Found, corpus, run_for, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Random use of the picker, checked after every step.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", help="one run of --target from this seed, as a failure prints it")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    options = parser.parse_args()
    counts = Counts()
    try:
        if options.seed is not None and "." in options.seed:
            run_one(options.target or "picks", options.seed, counts)
        else:
            seed = options.seed or secrets.token_hex(4)
            print(f"seed {seed}", flush=True)
            for target, found in corpus():
                run_one(target, found, counts)
            counts = run_for(options.seconds, seed, [options.target] if options.target else tuple(TARGETS))
    except Found as failure:
        print(failure, file=sys.stderr)
        return 1
    runs = ", ".join(f"{target} {count}" for target, count in counts.runs.items())
    print(f"runs: {runs}; {counts.streams} streams, {counts.messages} messages; nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
