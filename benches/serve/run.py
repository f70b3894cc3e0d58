#!/usr/bin/env python3
"""Latency and throughput of `lorb-engine serve` against offered load, beside a baseline, a simulated queue, and itself
with many adapters.

    cargo build --release && cargo bench --bench load --no-run
    python benches/serve/run.py --model DIR --adapter DIR --lists test.jsonl.gz --load target/release/deps/load-…

Both services run all the time, and --rounds times in turn each has every load, so that a machine that slows down slows
both. The baseline has the engine's own requests at half their rate, the same lists in twice the time: the luck of a draw is
more than what is measured of the slowest of a hundred. It needs ../baselines/requirements.txt and requirements.txt;
--baseline-python names its Python, and without it there is none. Caches are off. Prints Markdown; --out keeps the
numbers as JSON.
"""

import argparse
import contextlib
import gzip
import http.client
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from simulate import fit, quantile, simulate

HERE = Path(__file__).parent
# Seconds of each load of the engine that do not count.
WARMUP = 3.0
# Of the engine's rate, what the baseline has.
SHARE = 0.5
QUANTILES = (0.5, 0.95, 0.99)


class Service:
    """A program that answers at a port until the end of the block."""

    def __init__(self, command: list[str], port: int):
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE if port == 0 else None, text=True)
        if port == 0:
            for line in self.process.stderr:
                if '"listening"' in line:
                    port = int(json.loads(line)["address"].rsplit(":", 1)[1])
                    break
            else:
                raise SystemExit("the service did not start")
            # The rest of the log.
            threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.port = port

    def __enter__(self):
        for _ in range(1200):
            try:
                self.ask("GET", "/readyz")
                return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the service is not ready")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, method: str, path: str, body: dict | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {response.status}: {text}")
        return text

    def figure(self, name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.metrics, re.M)[1])

    def computed(self) -> tuple[float, float, float]:
        self.metrics = self.ask("GET", "/metrics")
        names = ('lorb_stage_seconds_sum{stage="compute"}', "lorb_batch_tokens_sum", "lorb_batch_tokens_count")
        return tuple(map(self.figure, names))


def calibrate(service: Service, lists: list[dict], adapter: str) -> dict:
    """Service times of batches, each alone, and what a request takes besides; the tokens of every list's rows."""
    points, around, tokens = [], [], []
    service.ask("POST", "/v1/rescore", {"adapter": adapter, "utterances": lists[:1]})
    before = service.computed()
    for i, one in enumerate(lists):
        part = {"hyps": one["hyps"][: 1 + i * 7 % len(one["hyps"])]}
        start = time.perf_counter()
        service.ask("POST", "/v1/rescore", {"adapter": adapter, **part})
        latency = time.perf_counter() - start
        after = service.computed()
        seconds, batch, count = (b - a for a, b in zip(before, after))
        before = after
        if count == 1:
            points.append((int(batch), seconds))
            around.append(latency - seconds)
    for one in lists:
        answer = json.loads(service.ask("POST", "/v1/rescore?explain=1", {"adapter": adapter, "hyps": one["hyps"]}))
        # Equal sequences are scored once.
        rows = {h["lorb"]: h["parts"]["tokens"] for h in answer["utterances"][0]["hyps"]}
        tokens.append(list(rows.values()))
    fixed, each = fit(points)
    return {"fixed": max(fixed, 0), "each": each, "around": statistics.median(around), "tokens": tokens, "points": points}


def pooled(rounds: list[dict]) -> dict:
    """Of the requests of all rounds of a load."""
    found = {"offered": rounds[0]["offered"], "throughput": statistics.mean(r["throughput"] for r in rounds)}
    for key, of in [("measured_ms", "latencies_ms"), ("simulated_ms", "simulated")]:
        if of in rounds[0]:
            found[key] = [quantile([ms for r in rounds for ms in r[of]], q) for q in QUANTILES]
    if "seconds" in rounds[0]:
        found["slowdown"] = sum(r["seconds"] for r in rounds) / sum(r["seconds_alone"] for r in rounds)
    return found


def words(one: dict) -> list[int]:
    """Of each hypothesis of a list that differs from the others."""
    return [len(text.split()) for text in {h["text"] for h in one["hyps"]}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="target/release/lorb-engine")
    parser.add_argument("--load", required=True, help="the program that cargo made of load.rs")
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--lists", required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16", "int8"], default="f32", help="the baseline's is fp32, or int8 with int8")
    parser.add_argument("--baseline-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of a load of the engine in a round")
    parser.add_argument("--calibration", type=int, default=100, help="lists to measure service times with")
    parser.add_argument("--budget", type=int, help="tokens of a batch [default: 384 a thread]")
    parser.add_argument("--fractions", default="0.25,0.5,0.7,0.85")
    parser.add_argument("--adapters", type=int, default=1000, help="0 leaves the comparison out")
    parser.add_argument("--out")
    options = parser.parse_args()
    budget = options.budget or 384 * options.threads
    fractions = [float(f) for f in options.fractions.split(",")]

    with tempfile.TemporaryDirectory() as folder:
        plain, adapters = Path(folder) / "lists.jsonl", Path(folder) / "adapters"
        opener = gzip.open if options.lists.endswith(".gz") else open
        with opener(options.lists, "rt") as source:
            plain.write_text(source.read())
        keys = ("text", "am", "lm")
        with plain.open() as lines:
            all_lists = [{"hyps": [{k: h[k] for k in keys if k in h} for h in json.loads(line)["hyps"]]} for line in lines]
        lists = all_lists[: options.calibration]
        for i in range(max(options.adapters, 1)):
            shutil.copytree(options.adapter, adapters / f"d{i}")
        sent, draws = 0, 0

        def draw(rate: float) -> dict:
            """A load of that many requests a second, of lists that no other draw has."""
            nonlocal sent, draws
            first, draws = sent, draws + 1
            sent += int(rate * (options.seconds + 10))
            return {"rate": rate, "seconds": options.seconds, "warmup": WARMUP, "first": first, "seed": draws}

        def load(service: Service, drawn: dict, *more: str) -> tuple[dict, list[float]]:
            """What came of a load, and when its requests were due."""
            command = [options.load, "--address", f"127.0.0.1:{service.port}", "--lists", plain, "--adapter-prefix", "d", *more]
            command += [part for name, value in drawn.items() for part in (f"--{name}", str(value))]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            return result, result.pop("arrivals")

        engine = [options.engine, "serve", "--model", options.model, "--adapters", adapters, "--threads", str(options.threads)]
        engine += ["--device", "cpu", "--listen", "127.0.0.1:0", "--cache-memory", "0", "--batch-tokens", str(budget)]
        engine += ["--dtype", options.dtype]
        engine += ["--max-wait", "10000", "--adapter-memory", "16384"]
        results: dict = {"budget": budget}
        with contextlib.ExitStack() as running:
            service = running.enter_context(Service(list(map(str, engine)), 0))
            measured = calibrate(service, lists, "d0")
            fixed, each, around = (measured[key] for key in ("fixed", "each", "around"))
            # Two of a row's tokens are [CLS] and [SEP].
            in_words = sum(map(sum, measured["tokens"])) - 2 * sum(map(len, measured["tokens"]))
            tokens_a_word = in_words / sum(sum(words(one)) for one in lists)
            tokens = [[2 + round(tokens_a_word * count) for count in words(one)] for one in all_lists]
            mean = statistics.mean(map(sum, tokens))
            capacity = budget / (fixed + each * budget) / mean
            results |= {"service_time": [fixed, each], "around": around, "tokens_of_a_list": mean, "capacity": capacity}
            baseline = None
            if options.baseline_python:
                command = [options.baseline_python, HERE / "baseline.py", "--model", options.model, "--adapter", options.adapter]
                command += ["--threads", str(options.threads), "--port", "8760"]
                command += ["--contender", "ort-int8" if options.dtype == "int8" else "ort-fp32"]
                baseline = running.enter_context(Service(list(map(str, command)), 8760))

            def engine_has(drawn: dict) -> dict:
                before = service.computed()
                result, arrivals = load(service, drawn)
                seconds, computed, batches = (b - a for a, b in zip(before, service.computed()))
                # The same requests at the same times.
                same = [tokens[(drawn["first"] + i) % len(tokens)] for i in range(len(arrivals))]
                latencies = simulate(arrivals, same, budget, fixed, each, around)
                result["simulated"] = [1e3 * s for at, s in zip(arrivals, latencies) if at >= WARMUP]
                return result | {"seconds": seconds, "seconds_alone": fixed * batches + each * computed}

            rounds: dict[str, list[list[dict]]] = {name: [[] for _ in fractions] for name in ("engine", "baseline")}
            for _ in range(options.rounds):
                for i, fraction in enumerate(fractions):
                    drawn = draw(fraction * capacity)
                    rounds["engine"][i].append(engine_has(drawn))
                    if baseline:
                        longer = {name: drawn[name] / SHARE for name in ("seconds", "warmup")}
                        slower = drawn | longer | {"rate": drawn["rate"] * SHARE}
                        rounds["baseline"][i].append(load(baseline, slower)[0])
            results |= {name: [pooled(r) for r in of if r] for name, of in rounds.items()}
            if options.adapters:
                results["one_adapter"], _ = load(service, draw(1.5 * capacity))
                results["many_adapters"], _ = load(service, draw(1.5 * capacity), "--adapters", str(options.adapters))
            if baseline:
                results["baseline_full"], _ = load(baseline, draw(1.5 * capacity) | {"seconds": min(options.seconds, 10)})

    report(results)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


def report(results: dict) -> None:
    print("| service | offered /s | answered /s | p50 ms | p95 ms | p99 ms | simulated p50, p95, p99 | batches' time over that alone |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in ("engine", "baseline"):
        for r in results[name]:
            simulated = ", ".join(f"{ms:.0f}" for ms in r.get("simulated_ms", []))
            slowdown = f"{r['slowdown']:.2f}x" if "slowdown" in r else ""
            times = " | ".join(f"{ms:.0f}" for ms in r["measured_ms"])
            print(f"| {name} | {r['offered']:.1f} | {r['throughput']:.1f} | {times} | {simulated} | {slowdown} |")
    if "many_adapters" in results:
        one, many = results["one_adapter"]["throughput"], results["many_adapters"]["throughput"]
        print(f"\nOverloaded: {one:.1f} lists/s with one adapter, {many:.1f} with many ({100 * many / one:.0f} %).")
    if "baseline_full" in results:
        print(f"The baseline overloaded: {results['baseline_full']['throughput']:.1f} lists/s.")


if __name__ == "__main__":
    main()
