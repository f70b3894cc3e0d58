"""Rescores N-best lists by a running `lorb-engine serve`.

    python rescore.py --url http://127.0.0.1:8750 --adapter legal lists.jsonl > rescored.jsonl

Needs nothing but requests. Lists are JSON lines, {"id": …, "hyps": [{"text": …, "am": …, "lm": …}, …]}.
"""

import argparse
import json
import os
import sys
import time

import requests


def ask(session, url, request, attempts=10):
    """The answer to a request; a full service is asked again when it says."""
    for _ in range(attempts):
        response = session.post(f"{url}/v1/rescore", json=request, timeout=60)
        if response.status_code == 503 and "Retry-After" in response.headers:
            time.sleep(int(response.headers["Retry-After"]))
            continue
        if not response.ok:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        return response.json()
    raise RuntimeError(f"the service was full {attempts} times")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8750")
    parser.add_argument("--adapter", help="without it the model's own head scores")
    parser.add_argument("--batch", type=int, default=16, help="utterances of a request")
    parser.add_argument("lists", type=argparse.FileType(encoding="utf-8"))
    options = parser.parse_args()

    session = requests.Session()
    if token := os.environ.get("LORB_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    utterances = [json.loads(line) for line in options.lists if line.strip()]
    for first in range(0, len(utterances), options.batch):
        batch = utterances[first : first + options.batch]
        keys = ("text", "am", "lm")
        hyps = [[{k: h[k] for k in keys if k in h} for h in u["hyps"]] for u in batch]
        request = {"utterances": [{"id": str(u["id"]), "hyps": h} for u, h in zip(batch, hyps)]}
        if options.adapter:
            request["adapter"] = options.adapter
        answer = ask(session, options.url, request)
        for utterance, scored in zip(batch, answer["utterances"]):
            for hyp, scores in zip(utterance["hyps"], scored["hyps"]):
                # As in the files: a field "ngram" may be one of yours.
                hyp.update({"lorb_ngram" if key == "ngram" else key: score for key, score in scores.items()})
            utterance.update({key: scored[key] for key in ("best", "confidence", "order")})
            json.dump(utterance, sys.stdout, ensure_ascii=False)
            print()


if __name__ == "__main__":
    main()
