#!/usr/bin/env python3
"""The service that a team would write: FastAPI, ONNX Runtime, batches of what waits.

    python baseline.py --model DIR [--adapter DIR] --port 8760

One adapter, merged into the weights; the fused graph of ../baselines/rescore.py. A worker thread takes all requests
that wait, up to a number of tokens, as one padded batch. Requests and answers are those of `lorb-engine serve`, as far
as load.rs asks for them.
"""

import argparse
import asyncio
import sys
import threading
from collections import deque
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "baselines"))
from rescore import ort_scorer  # noqa: E402


class Hypothesis(BaseModel):
    text: str
    am: float
    lm: float = 0.0


class Ask(BaseModel):
    hyps: list[Hypothesis]
    adapter: str | None = None


class Batcher:
    """Scores in a thread of its own; the event loop stays free."""

    def __init__(self, score, tokenizer, budget: int):
        self.score, self.tokenizer, self.budget = score, tokenizer, budget
        self.waiting: deque = deque()
        self.there = threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    async def scores(self, texts: list[str]):
        tokens = self.tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        with self.there:
            self.waiting.append((tokens, loop, answer))
            self.there.notify()
        return await answer

    def take(self) -> list:
        """Requests for a batch: at least one, and no more padded tokens than the budget."""
        with self.there:
            self.there.wait_for(lambda: self.waiting)
            batch, rows, longest = [], 0, 0
            while self.waiting:
                tokens = self.waiting[0][0]
                width = max(longest, max(map(len, tokens)))
                if batch and (rows + len(tokens)) * width > self.budget:
                    break
                batch.append(self.waiting.popleft())
                rows, longest = rows + len(tokens), width
            return batch

    def run(self) -> None:
        while True:
            batch = self.take()
            found = self.score([row for tokens, _, _ in batch for row in tokens]).tolist()
            first = 0
            for tokens, loop, answer in batch:
                loop.call_soon_threadsafe(answer.set_result, found[first : first + len(tokens)])
                first += len(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--contender", choices=["ort-fp32", "ort-int8"], default="ort-fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=1536)
    parser.add_argument("--port", type=int, default=8760)
    options = parser.parse_args()
    score, _ = ort_scorer(options, options.threads)
    batcher = Batcher(score, AutoTokenizer.from_pretrained(options.model), options.batch_tokens)
    app = FastAPI()

    @app.get("/readyz")
    async def ready():
        return {"ready": True}

    @app.post("/v1/rescore")
    async def rescore(ask: Ask):
        scores = await batcher.scores([h.text for h in ask.hyps])
        totals = [h.am + h.lm + g for h, g in zip(ask.hyps, scores)]
        order = sorted(range(len(totals)), key=lambda i: -totals[i])
        hyps = [{"lorb": g, "total": t} for g, t in zip(scores, totals)]
        return {"utterances": [{"hyps": hyps, "order": order, "best": ask.hyps[order[0]].text}]}

    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
