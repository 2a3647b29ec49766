"""`calumma serve` beside transformers behind a minimal FastAPI server: the same text model, the same cores, the same clients.

python benches/serving_peer.py CALUMMA DIR [SECONDS]

Writes a random LLaMA of 23 million parameters in Hugging Face's layout to DIR, unless it is there. Each server in turn answers 1, 8
and 32 clients that ask again at once, for SECONDS (20) each: prompts of 64 tokens, 64 new ones, the most likely ones, streamed.
Needs torch, transformers, fastapi and uvicorn.
"""

import http.client
import json
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIENTS = [1, 8, 32]
PROMPT, NEW = 64, 64


def make(directory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(ROOT / "checkpoints/demo/tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def serve(directory, port):
    """The shortest server that streams: one answer at a time, as `generate` takes the whole machine."""
    import fastapi
    import torch
    import uvicorn
    from fastapi.responses import StreamingResponse
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    model.eval()
    app, turn = fastapi.FastAPI(), threading.Lock()

    @app.post("/v1/completions")
    def complete(body: dict):
        def events():
            with turn:
                streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
                settings = {"max_new_tokens": body["max_tokens"], "do_sample": False, "streamer": streamer}
                ids = torch.tensor([body["prompt"]])
                thread = threading.Thread(target=model.generate, args=(ids,), kwargs=settings)
                with torch.inference_mode():
                    thread.start()
                    for text in streamer:
                        yield "data: " + json.dumps({"choices": [{"text": text}]}) + "\n\n"
                    thread.join()
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    uvicorn.run(app, port=port, log_level="error")


def ask(port, seed):
    """Seconds to the first event and to the end."""
    ids = random.Random(seed).choices(range(1100, 1900), k=PROMPT)
    body = {"prompt": ids, "max_tokens": NEW, "temperature": 0, "stream": True}
    connection, start, first = http.client.HTTPConnection("127.0.0.1", port, timeout=300), time.monotonic(), None
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read())
    last = b""
    for line in answer:
        if line.startswith(b"data: "):
            first, last = first or time.monotonic() - start, line
    assert last.strip() == b"data: [DONE]", last
    return first, time.monotonic() - start


def measure(port, seconds):
    rates = []
    for clients in CLIENTS:
        start, firsts, ends, errors = time.monotonic(), [], [], []

        def client(number):
            # No prompt comes twice: one server would find it in its cache.
            seed = (100 * clients + number) * 100_000
            try:
                while time.monotonic() < start + seconds:
                    firsts.append(ask(port, seed)[0])
                    ends.append(time.monotonic())
                    seed += 1
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if errors:
            raise errors[0]
        rates.append(len(ends) / (max(ends) - start))
        first = 1000 * statistics.median(firsts)
        print(f"    {clients:3} clients: {rates[-1]:7.2f} answers/s, {NEW * rates[-1]:7.0f} tokens/s at most, first event {first:.0f} ms", flush=True)
    return rates


def wait(port):
    for _ in range(600):
        try:
            ask(port, 0)
            return
        except (OSError, RuntimeError):
            time.sleep(0.2)
    raise RuntimeError("the server does not answer")


def main():
    if sys.argv[1] == "--serve":
        return serve(sys.argv[2], int(sys.argv[3]))
    calumma, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 20
    if not (directory / "config.json").exists():
        make(directory)
    found = {}
    for name, port, command in [
        ("transformers and FastAPI", 8101, [sys.executable, __file__, "--serve", str(directory), "8101"]),
        ("calumma", 8102, [calumma, "serve", str(directory), "--listen", "127.0.0.1:8102", "--quiet"]),
    ]:
        server = subprocess.Popen(command)
        try:
            wait(port)
            print(name, flush=True)
            found[name] = measure(port, seconds)
        finally:
            server.terminate()
            server.wait(60)
    peer, own = found.values()
    for clients, theirs, ours in zip(CLIENTS, peer, own):
        print(f"{clients:3} clients: calumma answers {ours / theirs:.1f} x as many")


if __name__ == "__main__":
    main()
