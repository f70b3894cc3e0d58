"""Trains an adapter for each domain on a Ray cluster, from one base: a task a domain. See docs/scale.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

import lorb_engine
from domains import domains
from lorb_engine.shards import absolute, set_environment


def train(out: str, isa: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Trains a domain, or what is left of it; gives the last line of its metrics."""
    set_environment(isa)
    lorb_engine.train(out=out, resume=True, **options)
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        return json.loads(file.readlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--domains", type=lambda given: Path(given).absolute(), required=True, metavar="DIR", help="NAME.jsonl, or a folder NAME, of each domain")
    add("--out", type=lambda given: Path(given).absolute(), required=True, metavar="DIR", help="the adapters go to DIR/NAME")
    add("--model", type=absolute, required=True, metavar="DIR|ID", help="the base")
    add("--init-adapter", type=absolute, metavar="DIR|ID", help="start from this adapter [default: a fresh one]")
    add("--valid", type=float, default=0.2, metavar="SHARE", help="of each domain's lists, to choose on [default: 0.2]")
    add("--epochs", type=int, metavar="N", help="[default: by the number of lists]")
    add("--batch-tokens", type=int, metavar="N", help="[default: by the number of lists]")
    often = "a killed task repeats no more than this; the disk takes a few MB of each task so often [default: 60]"
    add("--checkpoint-every", type=int, default=60, metavar="SECONDS", help=often)
    add("--dtype", choices=["f32", "bf16"], help="the type of the base's weights")
    add("--threads", type=int, default=1, metavar="N", help="threads of a task [default: 1]")
    add("--isa", choices=["avx512", "avx2", "portable"], help="the instruction set [default: each machine's best]")
    add("--retries", type=int, default=-1, metavar="N", help="of a task that lost its machine [default: no end]")
    given = parser.parse_args()
    try:
        named = domains(given.domains)
    except ValueError as error:
        parser.error(str(error))
    if not named:
        parser.error(f"{given.domains}: there are no lists in it")
    kept = ["model", "init_adapter", "valid", "epochs", "batch_tokens", "checkpoint_every", "dtype", "threads"]
    options = {name: getattr(given, name) for name in kept} | {"device": "cpu"}

    ray.init()
    task = ray.remote(num_cpus=given.threads, max_retries=given.retries)(train)
    under_way = {}
    for name, files in named.items():
        out = given.out / name
        # The name is what Ray's dashboard shows.
        ref = task.options(name=f"train {name}").remote(str(out), given.isa, options | {"train": files})
        under_way[ref] = name
    width = max(map(len, named))
    print(f"{'':{width}}  first pass  with LoRB   oracle  seconds  (validation WER)")
    failed = {}
    while under_way:
        [ref], _ = ray.wait(list(under_way), num_returns=1)
        name = under_way.pop(ref)
        try:
            result = ray.get(ref)
        except ray.exceptions.RayError as error:
            # What the task raised, or what became of its machine.
            failed[name] = str(getattr(error, "cause", error))
            continue
        errors, units = result["sets"][0]["errors"], result["sets"][0]["reference_units"]
        rates = [f"{100 * errors[system] / units:7.2f} %" for system in ["first_pass", "rescored", "oracle"]]
        print(f"{name:{width}}   {'  '.join(rates)}  {result['seconds']:7.0f}", flush=True)
    for name, problem in failed.items():
        print(f"{name}: {problem}")
    print(f"{len(named) - len(failed)} of {len(named)} domains are done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
