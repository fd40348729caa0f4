"""Kill a study with SIGKILL at random moments, go on each time, and compare with an undisturbed run, byte for byte.

    python benchmarks/kills.py examples/hippocampus/study.toml --kills 10 --out kills

Writes OUT/whole and OUT/killed; prints when each kill came and which tables are the same. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from radiolucent.study import Study

TABLES = ("regions", "cases")


def start(recipe: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    code = "from radiolucent.cli import main; main()"
    command = [sys.executable, "-c", code, "study", "run", str(recipe), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done(study: Path) -> int:
    return len([p for p in (study / "cases").glob("*") if not p.name.startswith(".")])


def kill(recipe: Path, study: Path, options: list[str], most: float, seed: int) -> str:
    """Let it run for a random time, counted from the first case that it does, and kill it."""
    before, process = done(study), start(recipe, study, *options)
    if seed % 2:  # every other kill may also hit the start
        while process.poll() is None and done(study) == before:
            time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, most))
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return f"{'ended before' if ended else 'killed'}, {done(study) - before} cases done in between, {done(study)} in all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="The longest wait before a kill.")
    parser.add_argument("--workers", default="0")
    arguments = parser.parse_args()
    options = ["--workers", arguments.workers]
    whole, killed = arguments.out / "whole", arguments.out / "killed"
    for number in range(arguments.kills):
        print(f"kill {number + 1}: {kill(arguments.recipe, killed, options, arguments.seconds, number)}", flush=True)
    codes = [start(arguments.recipe, folder, *options).wait() for folder in (killed, whole)]
    print(f"exit codes: killed {codes[0]}, whole {codes[1]}; {done(killed)} and {done(whole)} cases")
    same = {}
    for folder in (killed, whole):
        Study.open(folder).compact()
    for name in TABLES:
        one, other = ((folder / "compact" / f"{name}.parquet").read_bytes() for folder in (killed, whole))
        same[name] = one == other
        print(f"{name}: {'the same' if same[name] else 'DIFFERENT'}, {len(one)} bytes")
    left = [str(p.relative_to(killed)) for p in killed.rglob(".*")] + [p.name for p in (killed / "running").iterdir()]
    print(f"left behind: {', '.join(left) or 'nothing'}")
    sys.exit(not all(same.values()) or any(codes) or bool(left))


if __name__ == "__main__":
    main()
