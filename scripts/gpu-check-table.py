#!/usr/bin/env python3
"""What scripts/gpu-check.sh found: results.json, and a table in Markdown."""

import json
import pathlib
import sys

# The first steps differ by rounding (products on CUDA have the 11 significant bits of TF32), later ones by what grows
# from it.
FIRST, FIRST_ALLOWED, ALLOWED = 5, 2e-3, 0.05


def lines(path):
    return [json.loads(line) for line in open(path) if line.strip().startswith("{")]


def train(path):
    return [entry for entry in lines(path) if entry.get("kind") == "train"]


def losses(reference, found):
    pairs = list(zip(train(reference), train(found)))
    errors = [abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in pairs]
    first, rest = max(errors[:FIRST], default=1.0), max(errors, default=1.0)
    is_right = len(pairs) > FIRST and first <= FIRST_ALLOWED and rest <= ALLOWED
    last = pairs[-1] if pairs else ({}, {})
    print(json.dumps({
        "losses": len(pairs), "first_off_by": first, "off_by": rest, "ok": is_right,
        "cpu_last": last[0].get("loss"), "gpu_last": last[1].get("loss"),
    }))
    return 0 if is_right else 1


def speed(name, path):
    steps = train(path)[2:] or train(path)
    median = sorted(step["tokens_per_s_now"] for step in steps)[len(steps) // 2]
    mfu = sorted(step.get("mfu", 0.0) for step in steps)[len(steps) // 2]
    print(json.dumps({"speed": name, "tokens_per_s": median, "mfu": mfu}))


def summary(path, out):
    found = lines(path)
    out = pathlib.Path(out)
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    rows = []
    for entry in found:
        if "wrong" in entry:
            rows.append(("**wrong**", entry["wrong"]))
        elif "caption" in entry:
            rows.append(("caption", entry["caption"]))
        elif "operation" in entry:
            rows.append((f"{entry['operation']}, {entry['dtype']}", f"off by {entry['off_by']:.1e}"))
        elif "speed" in entry:
            share = f"{100 * entry['mfu']:.1f} % of its matrix products"
            rows.append((entry["speed"], f"{entry['tokens_per_s']:,.0f} tokens/s, {share}"))
        elif "losses" in entry:
            rows.append(("losses beside the CPU", f"off by {entry['first_off_by']:.1e} at first, {entry['off_by']:.1e} at most"))
        elif "rows" in entry:
            what = {key: value for key, value in entry.items() if key != "rows"}
            rows.append((f"bench, {entry['rows']} rows", json.dumps(what)))
    table = ["| what | found |", "|---|---|"] + [f"| {name} | {value} |" for name, value in rows]
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    if sys.argv[1] == "--losses":
        sys.exit(losses(*sys.argv[2:4]))
    elif sys.argv[1] == "--speed":
        speed(*sys.argv[2:4])
    else:
        summary(*sys.argv[1:3])
