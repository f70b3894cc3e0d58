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
    """The scored utterances of a request. A full service is asked again when it says, and in halves for what is more
    than it takes at once or scores in time."""
    for _ in range(attempts):
        response = session.post(f"{url}/v1/rescore", json=request, timeout=60)
        if response.ok:
            return response.json()["utterances"]
        utterances = request["utterances"]
        refusal = response.json() if response.headers.get("Content-Type") == "application/json" else {}
        too_much = refusal.get("error", {}).get("code") in ("deadline", "too_large")
        if too_much and len(utterances) > 1:
            middle = len(utterances) // 2
            halves = [{**request, "utterances": half} for half in (utterances[:middle], utterances[middle:])]
            return [scored for half in halves for scored in ask(session, url, half, attempts)]
        if "Retry-After" not in response.headers:
            break
        time.sleep(int(response.headers["Retry-After"]))
    raise RuntimeError(f"{response.status_code}: {response.text}")


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
        for utterance, scored in zip(batch, ask(session, options.url, request)):
            for hyp, scores in zip(utterance["hyps"], scored["hyps"]):
                # As in the files: a field "ngram" may be one of yours.
                hyp.update({"lorb_ngram" if key == "ngram" else key: score for key, score in scores.items()})
            utterance.update({key: scored[key] for key in ("best", "confidence", "order")})
            json.dump(utterance, sys.stdout, ensure_ascii=False)
            print()


if __name__ == "__main__":
    main()
