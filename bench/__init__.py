"""Benchmarks: one script a question, each pairing fedrouter with what a user would write otherwise.

``python -m bench.NAME`` prints a table and writes ``bench/results/NAME.json``; ``--full`` takes the
sizes of docs/performance.md. Timings are noisy, so the two sides run by turns and the median of the
pairs' ratios counts.
"""

import warnings

warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, through PEFT
