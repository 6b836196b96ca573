"""Serve a run over OpenAI's HTTP API and chat with it: every turn is routed.

pip install 'fedrouter[serve]' openai
python examples/serve_and_chat.py runs/example ["a question" "the next one" ...]
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

QUESTIONS = [
    "Mrs Barnes was born on 6 April 2007.",
    "The letter from Mr Sawyer arrived on October 21, 2027.",
]


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Run `fedrouter serve` on a free port; yields its address, and ends the server."""
    command = [sys.executable, "-m", "fedrouter", "serve", folder, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                print(line, end="", file=sys.stderr)
                if " on http://" in line:
                    yield line.split()[-1]
                    return
            raise SystemExit("the server did not start")
        finally:
            server.terminate()


def main(folder: str, questions: list[str]) -> None:
    """Ask each question in one conversation; print who answered and what."""
    with served(folder) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        turns: list[dict[str, str]] = []
        for question in questions:
            turns.append({"role": "user", "content": question})
            answer = client.chat.completions.create(model="auto", messages=turns, max_tokens=48)
            text = answer.choices[0].message.content
            routing = answer.routing  # fedrouter's own field, beside `usage`
            print(f"you: {question}")
            print(f"{routing['task']} (confidence {routing['confidence']:.2f}): {text}")
            turns.append({"role": "assistant", "content": text})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or QUESTIONS)
