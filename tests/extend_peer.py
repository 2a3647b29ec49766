"""What transformers makes of a text model and of the same extended by ids of images; tests/extend_peers.rs calls this.

Usage: extend_peer.py TEXT_MODEL EXTENDED OUT.json
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

text_model, extended, out = sys.argv[1:]
before, info_before = AutoModelForCausalLM.from_pretrained(text_model, output_loading_info=True)
after, info_after = AutoModelForCausalLM.from_pretrained(extended, output_loading_info=True)
assert type(before) is type(after), (type(before), type(after))
for info in (info_before, info_after):
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info

rows = before.get_input_embeddings().weight.shape[0]
ids = torch.tensor([[5 + 37 * at % 290 for at in range(40)]])
with torch.no_grad():
    old, new = (model.eval()(ids).logits for model in (before, after))

tokenizers = [AutoTokenizer.from_pretrained(path) for path in (text_model, extended)]
texts = ["A picture of three cats.", "\u00e9t\u00e9 1234\n", "<|im_start|>user\nhow?<|im_end|>\n"]
for text in texts:
    found = [tokenizer(text)["input_ids"] for tokenizer in tokenizers]
    assert found[0] == found[1], (text, found)
turns = [{"role": "user", "content": "Draw a cat."}]
chats = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for tokenizer in tokenizers]
assert chats[0] == chats[1], chats

tokenizer = tokenizers[1]
names = tokenizer.convert_ids_to_tokens(list(range(rows, new.shape[-1])))
block = "<|vision_start|><|visual token 000000|><|visual token 001023|><|vision_end|>"
json.dump(
    {
        "difference": (old - new[..., :rows]).abs().max().item(),
        "ids": ids[0].tolist(),
        "logits": new.flatten().tolist(),
        "names": names,
        "block": tokenizer(block)["input_ids"],
        "roles": [getattr(tokenizer, role, None) for role in ("boi_token", "eoi_token", "image_token")],
    },
    open(out, "w"),
)
