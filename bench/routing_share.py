"""Which share of an answer does `fedrouter serve` spend on routing its prompt?

One request at a time, on nano, an answer of 32 tokens: the time to embed and route the prompt, over
the sum of it, the time to read the prompt, and that of 31 more tokens. CPU time, so that other
programs on the machine do not count.

``python -m bench.routing_share RUN``
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.output import publish
from bench.serving import prompts
from fedrouter import RoutedModel
from fedrouter.inference.decoding import DecodingBatch, new_sequence
from fedrouter.inference.sampling import Sampling

TOKENS = 32
PROMPTS = 40


def cpu_ms(work: Callable[[], object]) -> float:
    """The CPU time of a call."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def main() -> None:
    """Print the medians and the share."""
    model = RoutedModel.load(Path(sys.argv[1]))
    texts = prompts()[:PROMPTS]
    model.generate(texts[:2], max_new_tokens=2)  # the first pass of a process takes longer
    route, read, steps = [], [], []
    for text in texts:
        route.append(cpu_ms(lambda text=text: model.route([text])))  # type: ignore[misc]
        [(_, mixture)] = model.route_with_mixtures([text])
        ids = model.base.prompts.prompt_ids(text)
        batch = DecodingBatch(model.multi_adapter)
        sequence = new_sequence(model.base, ids, mixture, Sampling(TOKENS), seed=0)
        read.append(cpu_ms(lambda batch=batch, one=sequence: batch.add([one])))  # type: ignore[misc]
        while batch.sequences:
            steps.append(cpu_ms(batch.step))
    medians = [statistics.median(times) for times in (route, read, steps)]
    whole = medians[0] + medians[1] + (TOKENS - 1) * medians[2]
    row = dict(zip(("route, ms", "read, ms", "token, ms"), medians, strict=True))
    title = f"Routing in an answer of {TOKENS} tokens, CPU time"
    publish("routing_share", title, [{**row, "answer, ms": whole, "share": medians[0] / whole}])


if __name__ == "__main__":
    main()
