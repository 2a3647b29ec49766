"""Load on `calumma serve`: throughput with 1, 8 and 32 clients, then a soak in which clients leave at random.

python server_soak.py CALUMMA CHECKPOINT [SECONDS]

Prints images per second and times to the first event; exit code 1 if an answer fails, an answer goes on without a client, or
memory grows by more than 5 % in the soak. Needs Linux and Python's standard library only.
"""

import base64
import json
import random
import statistics
import sys
import threading
import time

from server_process import Server

PROMPT = "a large red circle on a white background"
CLIENTS = [1, 8, 32]
# Of each measurement of throughput.
MEASURE = 15


def drawing(seed):
    messages = [{"role": "user", "content": PROMPT}]
    return {"messages": messages, "modalities": ["image"], "seed": seed, "stream": True}


def question(seed, image):
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "what is in the picture?"}]
    return {"messages": [{"role": "user", "content": parts}], "seed": seed, "stream": True, "temperature": 1}


def stream(server, body, leave_after=None):
    """Seconds to the first event, and the text of all; with `leave_after` the client leaves after so many events."""
    connection = server.connect()
    start = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {answer.read()[:200]}")
    first, events = None, []
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        first = first or time.monotonic() - start
        events.append(line[6:].strip())
        if len(events) == leave_after:
            connection.sock and connection.sock.close()
            connection.close()
            return first, None
    connection.close()
    if not events or events[-1] != b"[DONE]":
        raise RuntimeError(f"a stream ended with {events[-1:]}")
    return first, events


def at_once(count, work):
    """Runs `work(number)` on `count` threads; the errors."""
    errors = []

    def run(number):
        try:
            work(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return errors


def throughput(server, clients):
    end, firsts, images = time.monotonic() + MEASURE, [], []

    def draw(number):
        seed = number * 100_000
        while time.monotonic() < end:
            first, _ = stream(server, drawing(seed))
            firsts.append(first)
            images.append(time.monotonic())
            seed += 1

    start = time.monotonic()
    errors = at_once(clients, draw)
    rate = len(images) / (max(images) - start)
    first = 1000 * statistics.median(firsts)
    print(f"{clients:3} clients: {rate:6.2f} images/s, first event after {first:.0f} ms (median)", flush=True)
    return rate, errors


def soak(server, seconds):
    image = json.loads(server.ask("POST", "/v1/images/generations", {"prompt": PROMPT, "seed": 1})[1])
    image = "data:image/png;base64," + image["data"][0]["b64_json"]
    base64.b64decode(image.split(",")[1])
    counts, lock, start = {"whole": 0, "left": 0}, threading.Lock(), time.monotonic()
    memory = []

    def client(number):
        dice = random.Random(number)
        while (now := time.monotonic() - start) < seconds:
            seed = dice.randrange(1 << 30)
            body = drawing(seed) if dice.random() < 0.5 else question(seed, image)
            leave = dice.randrange(1, 8) if dice.random() < 0.3 else None
            _, events = stream(server, body, leave)
            with lock:
                counts["left" if events is None else "whole"] += 1
            if number == 0 and now > len(memory) * seconds / 20:
                memory.append(server.memory())

    errors = at_once(32, client)
    deadline = time.monotonic() + 10
    while server.metric("num_requests_running") + server.metric("num_requests_waiting") > 0:
        if time.monotonic() > deadline:
            errors.append(RuntimeError("answers go on without their clients"))
            break
        time.sleep(0.1)
    # The first quarter fills caches and pools.
    early, late = max(memory[: len(memory) // 4 + 1]), memory[-1]
    growth = 100 * (late / early - 1)
    print(f"soak of {seconds:.0f} s: {counts['whole']} answers, {counts['left']} clients left, {len(errors)} errors, "
          f"memory {early:.0f} -> {late:.0f} MiB ({growth:+.1f} %)", flush=True)
    if growth > 5:
        errors.append(RuntimeError("memory grows"))
    return errors


def main():
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 600
    rates, errors = [], []
    with Server(*sys.argv[1:3], "--queue", 256) as server:
        for clients in CLIENTS:
            rate, failed = throughput(server, clients)
            rates.append(rate)
            errors += failed
        print(f"32 clients draw {rates[-1] / rates[0]:.1f} x what one draws")
        errors += soak(server, seconds)
    for error in errors[:10]:
        print(f"FAILED  {error!r}")
    sys.exit(bool(errors))


main()
