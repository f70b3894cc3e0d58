"""What the baselines in PyTorch share: padded batches, the model, its adapters, and the loss."""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification

# In full fine-tuning the moments of words that do not come again decay to denormal numbers, with which an Intel CPU
# takes three times as long for a step.
torch.set_flush_denormal(True)

TARGETS = {
    "query": r"attention\.self\.query",
    "key": r"attention\.self\.key",
    "value": r"attention\.self\.value",
    "attention.output": r"attention\.output\.dense",
    "intermediate": r"intermediate\.dense",
    "output": r"\d+\.output\.dense",
}


def pad(tokens: list[list[int]], device: str = "cpu") -> dict[str, torch.Tensor]:
    rows = [torch.tensor(t) for t in tokens]
    ids = pad_sequence(rows, batch_first=True)  # [PAD] is 0
    mask = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def load_model(path: str, device: str = "cpu", attention: str = "sdpa") -> tuple[BertForSequenceClassification, bool]:
    """The classifier without dropout, and whether the checkpoint lacked a pooler."""
    model, info = BertForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    return model.to(device), any("pooler" in key for key in info["missing_keys"])


def trainable(
    path: str, rank: int, alpha: float, targets: str, full: bool, device: str, adapter: str | None = None
) -> torch.nn.Module:
    """A PEFT model, fresh or that of `adapter`, or the whole model where `full`; classifier.bias is frozen, as it has
    no gradient."""
    model, fresh_pooler = load_model(path, device)
    if adapter and not full:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    elif not full:
        from peft import LoraConfig, get_peft_model

        pattern = "|".join(TARGETS[t] for t in targets.split(","))
        saved = ["classifier", "pooler"] if fresh_pooler else ["classifier"]
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=rf".*\.({pattern})", modules_to_save=saved, task_type="SEQ_CLS"
        )
        model = get_peft_model(model, config)
    for name, p in model.named_parameters():
        if "classifier" in name and name.endswith("bias"):
            p.requires_grad_(False)
    return model


def merged(path: str, adapter: str | None, attention: str = "sdpa") -> BertForSequenceClassification:
    torch.manual_seed(0)  # a checkpoint without a classifier gets the same random one in every contender
    model, _ = load_model(path, attention=attention)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def mwer(scores: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(scores, dim=-1)
    return (p * (errors - errors.mean(-1, keepdim=True))).sum()
