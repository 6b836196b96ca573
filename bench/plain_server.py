"""The other side of bench.serving: FastAPI and PEFT, as one writes it in an afternoon.

Requests take turns; each sets its task's adapter and streams `generate`'s tokens. The task is
given by a lookup of the built-in prompt, so that this side does not pay for routing.

``python -m bench.plain_server RUN``
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from peft import PeftModel
from transformers import TextIteratorStreamer

from fedrouter.config import ModelConfig
from fedrouter.model.base_model import BaseModel

ONE_AT_A_TIME = asyncio.Lock()


def make_app(folder: Path) -> FastAPI:
    """The server of a run's adapters."""
    base = BaseModel.load(ModelConfig())
    tasks = sorted(path.name for path in (folder / "tasks").iterdir())
    model: Any = PeftModel.from_pretrained(base.model, folder / "tasks" / tasks[0], tasks[0])
    for task in tasks[1:]:
        model.load_adapter(folder / "tasks" / task, task)
    model.eval()
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(answer(body), media_type="text/event-stream")

    async def answer(body: dict[str, Any]) -> AsyncIterator[str]:
        async with ONE_AT_A_TIME:
            model.set_adapter(tasks[len(body["prompt"]) % len(tasks)])
            ids = torch.tensor([base.prompts.prompt_ids(body["prompt"])])
            streamer = TextIteratorStreamer(base.prompts._tokenizer, skip_prompt=True)
            arguments = {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "max_new_tokens": body["max_tokens"],
                "do_sample": False,
                "eos_token_id": sorted(base.prompts.end_ids),
                "pad_token_id": base.prompts.pad_id,
                "streamer": streamer,
            }
            results: list[Any] = []
            thread = Thread(target=lambda: results.append(model.generate(**arguments)))
            thread.start()
            while (text := await asyncio.to_thread(next, streamer, None)) is not None:
                yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
            thread.join()
            tokens = results[0].shape[1] - ids.shape[1]
            yield f"data: {json.dumps({'usage': {'completion_tokens': tokens}})}\n\n"

    return app


def main() -> None:
    """Listen on a free port and say which."""
    app = make_app(Path(sys.argv[1]))
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
