#!/usr/bin/env python3
"""Writes what the baselines load: the model with an adapter merged by PEFT, and the ONNX graphs of that.

    python export.py --model DIR [--adapter DIR] --out DIR

OUT is a Hugging Face folder, with fused.onnx (ONNX Runtime's own fusions for BERT, f32) and int8.onnx (that, quantised
dynamically) in it.
"""

import argparse
import tempfile
from pathlib import Path

import onnx
import torch
from common import merged, pad
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import AutoTokenizer


class ForExport(torch.nn.Module):
    """Positional arguments in, one tensor out."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def graphs(model: torch.nn.Module, out: Path) -> None:
    example = pad([[1] * 7, [1] * 5])
    axes = {0: "batch", 1: "tokens"}
    with tempfile.TemporaryDirectory() as folder:
        plain = str(Path(folder) / "plain.onnx")
        torch.onnx.export(
            ForExport(model), (example["input_ids"], example["attention_mask"]), plain, dynamo=False, opset_version=17,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        )
        config = model.config
        graph = optimizer.optimize_model(
            plain, model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
        )
    fusions = {name: count for name, count in graph.get_fused_operator_statistics().items() if count}
    if fusions.get("Attention", 0) != config.num_hidden_layers:
        raise SystemExit(f"attention was not fused in every layer: {fusions}")
    graph.save_model_to_file(str(out / "fused.onnx"))
    unknown = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # the types behind fused nodes
    quantize_dynamic(out / "fused.onnx", out / "int8.onnx", weight_type=QuantType.QInt8, extra_options=unknown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", help="a PEFT folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = merged(args.model, args.adapter, attention="eager")  # the form that the optimiser fuses
    model.save_pretrained(args.out)
    AutoTokenizer.from_pretrained(args.model).save_pretrained(args.out)
    graphs(model, args.out)


if __name__ == "__main__":
    main()
