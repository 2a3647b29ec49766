"""Prints what `datasets` and `webdataset` read from files that tests/data/peers.rs wrote.

Usage: data_peer.py JOBS, a JSON file with a list of {"kind": ..., "path": ...}. Kinds: imagefolder, json,
webdataset, safetensors. Prints a JSON list with one list of samples per job, or a text: the error. A sample is
{"fields": {column: value}, "images": [[width, height, SHA-256 of the RGB bytes], ...]}; of safetensors it is
[name, number format, shape, SHA-256 of the bytes].
"""

import hashlib
import json
import sys
import tempfile

import PIL.Image
import datasets
import safetensors
import webdataset


def image(value):
    value = value.convert("RGB")
    return [value.width, value.height, hashlib.sha256(value.tobytes()).hexdigest()]


def split(value, images):
    """`value` without the images in it, which are added to `images`; None where nothing is left."""
    if isinstance(value, PIL.Image.Image):
        images.append(image(value))
        return None
    if isinstance(value, list):
        if any(isinstance(entry, PIL.Image.Image) for entry in value):
            images.extend(image(entry) for entry in value if entry is not None)
            return None
        return [split(entry, images) for entry in value]
    if isinstance(value, dict):
        return {key: split(entry, images) for key, entry in value.items()}
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, bytes):
        return "bytes"
    return value


def sample(row, labels=()):
    fields, images = {}, []
    for key, value in row.items():
        before = len(images)
        left = split(value, images)
        if len(images) == before and key not in ("__url__", "__local_path__"):
            fields[key] = labels[value] if key == "label" and labels else left
    return {"fields": fields, "images": images}


def hub(kind, path, cache):
    if kind == "imagefolder":
        data = datasets.load_dataset(kind, data_dir=path, cache_dir=cache)
    else:
        data = datasets.load_dataset(kind, data_files=path, cache_dir=cache)
    (rows,) = data.values()
    label = rows.features.get("label")
    names = label.names if isinstance(label, datasets.ClassLabel) else ()
    return [sample(row, names) for row in rows]


def archive(path):
    data = webdataset.WebDataset(path, shardshuffle=False, empty_check=False).decode("pil")
    return [sample(row) for row in data]


def tensors(path):
    with open(path, "rb") as file:
        found = safetensors.deserialize(file.read())
    return sorted([name, t["dtype"], t["shape"], hashlib.sha256(t["data"]).hexdigest()] for name, t in found)


def read(job):
    try:
        if job["kind"] == "safetensors":
            return tensors(job["path"])
        if job["kind"] == "webdataset":
            return archive(job["path"])
        with tempfile.TemporaryDirectory() as cache:
            return hub(job["kind"], job["path"], cache)
    except Exception as error:  # the test says which errors it expects
        return f"{type(error).__name__}: {error}"


datasets.disable_progress_bars()
with open(sys.argv[1], encoding="utf-8") as jobs:
    json.dump([read(job) for job in json.load(jobs)], sys.stdout)
