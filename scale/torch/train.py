"""Trains one adapter with several processes, which reach each other through torch.distributed (gloo).

torchrun --nproc-per-node 2 scale/torch/train.py --model BERT --train lists.jsonl.gz --out adapter

All see the same files, and the first writes. See docs/scale.md.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist

import lorb_engine
from lorb_engine.shards import set_environment


def all_gather(mine: bytes) -> list[bytes]:
    """The bytes of every process, in the order of their ranks; they may differ in length."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(mine)]))
    longest = max(int(length) for length in lengths)
    padded = torch.frombuffer(bytearray(mine.ljust(max(longest, 1), b"\0")), dtype=torch.uint8)
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return [values.numpy().tobytes()[: int(length)] for values, length in zip(gathered, lengths)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", metavar="DIR|ID", help="the base [default: the embedded one]")
    add("--train", nargs="+", default=[], metavar="FILE", help="[default: the embedded lists]")
    add("--valid", default="0.2", metavar="FILE|SHARE")
    add("--test", nargs="+", default=[], metavar="FILE")
    add("--out", required=True, metavar="DIR", help="a folder that all share")
    add("--resume", action="store_true", help="go on with an unfinished run")
    add("--epochs", type=int, metavar="N")
    add("--batch-tokens", type=int, metavar="N", help="tokens of a step, of all processes together")
    add("--checkpoint-every", type=int, default=15, metavar="SECONDS", help="[default: 15]")
    add("--threads", type=int, default=1, metavar="N", help="threads of a process [default: 1]")
    add("--isa", choices=["avx512", "avx2", "portable"], help="the instruction set of all")
    given = parser.parse_args()
    set_environment(given.isa)

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()

    def tell(report: lorb_engine.StepReport) -> None:
        if rank == 0:
            print(f"step {report['step']}/{report['steps']}, MWER {report['mwer']:.4f}, {report['seconds']:.1f} s")

    result = lorb_engine.train(
        model=given.model,
        train=given.train,
        valid=given.valid,
        test=given.test,
        out=given.out,
        resume=given.resume,
        epochs=given.epochs,
        batch_tokens=given.batch_tokens,
        checkpoint_every=given.checkpoint_every,
        device="cpu",
        threads=given.threads,
        callback=tell,
        share=(rank, size),
        all_gather=all_gather,
    )
    if rank == 0 and result is not None:
        print(f"{result['adapter']}: epoch {result['epoch']}, {result['seconds']:.0f} s, {result['validation']}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
