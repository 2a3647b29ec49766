"""The logits that transformers computes with a checkpoint; tests/architectures/saved.rs calls this.

Usage: saved_peer.py CHECKPOINT IDS.json OUT.json
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

checkpoint, ids, out = sys.argv[1:]
model, info = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not info[kind], (kind, info[kind])
with torch.no_grad():
    logits = model.eval()(torch.tensor([json.load(open(ids))])).logits
json.dump(logits.flatten().tolist(), open(out, "w"))
