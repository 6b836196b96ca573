"""Benchmarks: one script for each question, each against the code a user would write instead.

``python -m bench.NAME`` prints a table and writes ``bench/results/NAME.json``; ``--full`` uses the
sizes of docs/performance.md. Timings are noisy, so the two sides are timed alternately, and the
result is the median of the ratios of the pairs.
"""

import warnings

warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, through PEFT
