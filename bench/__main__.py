"""All benchmarks, each in its own process: ``python -m bench [--full]``."""

import subprocess
import sys
import time

NAMES = (
    "training",
    "whole_run",
    "profiling",
    "inference",
    "server",
    "traffic",
    "many_clients",
    "spaces",
    "unknown",
    "engines",
    "reading",
)


def main() -> int:
    """Run them one after the other; returns the number that failed."""
    failed = []
    for name in NAMES:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *sys.argv[1:]], check=False)
        print(f"{name}: {time.perf_counter() - began:.0f} s\n", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
