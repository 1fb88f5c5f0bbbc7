"""The properties of the tests, tried on for as long as one likes: ``python -m tests.stress.fuzz --seconds 60``.

Runs every test that Hypothesis gives its examples to, and no other, in rounds of half a minute, each with a seed of its
own, in a process whose memory is bounded (``--memory-mib``). A round that fails ends the run: what failed stands in
pytest's words, with the falsifying example, the seed and the command that runs it again. A round that takes several
times what was to be expected is stopped, and is a failure too, as a hang.

``-k``, as pytest has it, tries some of the properties only. ``--seed`` and ``--examples`` give one round again.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import time

from tests.support.programs import PROJECT

#: Examples of each property in the first round; its time says how many there can be in the next.
FIRST_EXAMPLES = 40
#: To start Python and to find the tests. What a first round costs beyond that grows with the examples.
START_SECONDS = 3.0
#: What a round may take beyond what was to be expected before it is called a hang: the machine may be loaded, and some
#: examples are dearer than others.
SLOWER = 4
GRACE_SECONDS = 60.0
#: One round that was asked for by its examples, whatever they take.
REPEAT_SECONDS = 3600.0
#: As long as a round is meant to be. Longer ones would find no more: each of them is at random.
ROUND_SECONDS = 30.0
#: And no round has so many times the examples of the one before, from which its time is reckoned.
GROWTH = 4

#: pytest's own exit codes.
PASSED, INTERRUPTED, NOTHING_RUN = 0, 2, 5
HUNG = 124


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_round(seed: int, examples: int, seconds: float, memory_mib: int, only: str | None) -> int:
    """One round in a process group of its own; its exit code, HUNG if it had to be stopped."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "hypothesis", "tests/unit"]
    command += ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}", f"--timeout={seconds:.0f}"]
    if only is not None:
        command += ["-k", only]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["FUZZ_EXAMPLES"] = str(examples)
    limit = memory_mib * 1024 * 1024
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),  # noqa: PLW1509 - no threads here
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return HUNG
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of the first round; one of its own for each round otherwise")
    parser.add_argument("--examples", type=int, help="of each property, in one round only")
    parser.add_argument("--memory-mib", type=int, default=3072)
    parser.add_argument("-k", dest="only", metavar="EXPRESSION")
    options = parser.parse_args()
    dice = random.SystemRandom()
    ends_at = time.monotonic() + options.seconds
    examples = options.examples or FIRST_EXAMPLES
    expected = ROUND_SECONDS
    total = rounds = 0
    while True:
        seed = options.seed if options.seed is not None and not rounds else dice.getrandbits(32)
        say(f"round {rounds + 1}: seed {seed}, {examples} examples of each property")
        began = time.monotonic()
        seconds = REPEAT_SECONDS if options.examples else expected * SLOWER + GRACE_SECONDS
        code = run_round(seed, examples, seconds, options.memory_mib, options.only)
        took = time.monotonic() - began
        rounds += 1
        total += examples
        if code != PASSED:
            what = {HUNG: "did not come to its end", NOTHING_RUN: "found no property"}.get(code, f"ended with {code}")
            only = f" -k {options.only!r}" if options.only else ""
            say(f"WRONG: round {rounds} {what}; again with:")
            say(f"  python -m tests.stress.fuzz --seed {seed} --examples {examples}{only}")
            return 1
        expected = min(ends_at - time.monotonic(), ROUND_SECONDS)
        # Enough for that time if each example takes what it took; a start costs more than a few of them.
        per_example = max(took - START_SECONDS, 0.1) / examples
        examples = min(int((expected - START_SECONDS) * 0.9 / per_example), examples * GROWTH)
        if options.examples or examples < FIRST_EXAMPLES // 4:
            say(f"{rounds} rounds, {total} examples of each property, nothing wrong")
            return 0


if __name__ == "__main__":
    sys.exit(main())
