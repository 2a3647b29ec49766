"""OpenAI's Python client against `calumma serve`: one line for each case, exit code 1 if any fails.

python server_client.py CALUMMA CHECKPOINT
"""

import base64
import concurrent.futures
import io
import json
import pathlib
import random
import re
import struct
import sys
import tempfile
import time
import traceback
import zlib

import jsonschema
import openai
import openapi_spec_validator
from PIL import Image

from server_process import Server

PROMPT = "a large red circle on a white background"
KEY = "a-key-of-the-tests"


def data_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


def png_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def opened(b64):
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


def asks(png, text="what color is the circle?"):
    parts = [{"type": "image_url", "image_url": {"url": data_uri(png)}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def write_adapter(directory):
    """An adapter in PEFT's layout that changes the queries of the shipped model's first layer."""
    rank, width, name = 2, 256, "base_model.model.model.layers.0.self_attn.q_proj"
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 64, "target_modules": ["q_proj"]}
    config |= {"layers_to_transform": [0], "base_model_name_or_path": "demo", "task_type": "CAUSAL_LM"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    draw, header, content = random.Random(1), {}, b""
    for part, shape in (("A", [rank, width]), ("B", [width, rank])):
        numbers = struct.pack(f"<{rank * width}f", *(draw.gauss(0, 0.3) for _ in range(rank * width)))
        offsets = [len(content), len(content) + len(numbers)]
        header[f"{name}.lora_{part}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        content += numbers
    header = json.dumps(header).encode()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content)


class Cases:
    def __init__(self, client, names, server):
        self.client, self.names, self.server = client, names, server
        self.model = names[0]
        drawn = client.images.generate(model=self.model, prompt=PROMPT, extra_body={"seed": 3})
        self.png = base64.b64decode(drawn.data[0].b64_json)

    def chat(self, messages, **settings):
        settings = {"model": self.model, "temperature": 0, "max_tokens": 40, **settings}
        return self.client.chat.completions.create(messages=messages, **settings)

    def models(self):
        assert [model.id for model in self.client.models.list()] == self.names
        assert self.client.models.retrieve(self.names[1]).id == self.names[1]

    def image_in(self):
        answer = self.chat(asks(self.png))
        choice = answer.choices[0]
        assert choice.message.content == "red", choice
        assert choice.finish_reason == "stop", choice
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 64, usage

    def image_in_streamed(self):
        chunks = list(self.chat(asks(self.png), stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == "red", text
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.prompt_tokens > 64 and not chunks[-1].choices

    def image_out(self):
        answer = self.chat([{"role": "user", "content": PROMPT}], seed=5, extra_body={"modalities": ["image"]})
        message = answer.choices[0].message.model_dump()
        assert message["x_parts"] == [{"type": "image", "index": 0}], message
        uri = message["images"][0]["image_url"]["url"]
        assert opened(uri.split(",")[1]).size == (64, 64)

    def image_out_streamed(self):
        settings = {"seed": 5, "extra_body": {"modalities": ["image"]}}
        whole = self.chat([{"role": "user", "content": PROMPT}], **settings)
        whole = whole.choices[0].message.model_dump()["images"]
        deltas = [
            chunk.choices[0].delta.model_dump()
            for chunk in self.chat([{"role": "user", "content": PROMPT}], stream=True, **settings)
            if chunk.choices
        ]
        images = [image for delta in deltas for image in delta.get("images") or []]
        assert images == whole
        progress = [delta["x_image_progress"] for delta in deltas if delta.get("x_image_progress")]
        done = [step["done"] for step in progress]
        assert len(done) > 4 and done == sorted(done) and progress[0]["total"] == 64, progress

    def drawn_images_are_talked_of(self):
        drawn = self.chat([{"role": "user", "content": PROMPT}], seed=5, extra_body={"modalities": ["image"]})
        message = drawn.choices[0].message.model_dump(exclude_none=True)
        turns = [
            {"role": "user", "content": PROMPT},
            {key: message[key] for key in ("role", "content", "images")},
            {"role": "user", "content": "what color is the circle?"},
        ]
        assert self.chat(turns, extra_body={"modalities": ["text"]}).choices[0].message.content

    def several_answers(self):
        question = asks(self.png, "what is in the picture?")
        answers = self.chat(question, n=3, temperature=1.5, seed=7)
        assert [choice.index for choice in answers.choices] == [0, 1, 2]
        again = [
            self.chat(question, temperature=1.5, seed=7 + index).choices[0].message.content
            for index in range(3)
        ]
        assert [choice.message.content for choice in answers.choices] == again

    def stop(self):
        whole = self.client.completions.create(model=self.model, prompt="a large red", temperature=0, max_tokens=12)
        text = whole.choices[0].text
        word = text.split()[1]
        cut = self.client.completions.create(
            model=self.model, prompt="a large red", temperature=0, max_tokens=12, stop=[word]
        )
        assert cut.choices[0].text == text[: text.index(word)], (text, cut)
        assert cut.choices[0].finish_reason == "stop"
        assert whole.usage.completion_tokens <= 12

    def completion_streamed(self):
        settings = {"model": self.model, "prompt": "a large red", "temperature": 0, "max_tokens": 8}
        whole = self.client.completions.create(**settings).choices[0].text
        parts = self.client.completions.create(stream=True, **settings)
        assert "".join(part.choices[0].text for part in parts) == whole

    def log_probabilities(self):
        settings = {"model": self.model, "prompt": "a large red", "temperature": 0, "max_tokens": 8}
        whole = self.client.completions.create(logprobs=3, **settings).choices[0]
        told = whole.logprobs
        assert "".join(told.tokens) == whole.text, whole
        assert told.text_offset == [len("".join(told.tokens[:at])) for at in range(len(told.tokens))]
        for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
            # The token itself is there, if it is none of the three.
            assert 3 <= len(top) <= 4 and top[token] == logprob <= max(top.values()) <= 0, (token, top)
        parts = [part.choices[0] for part in self.client.completions.create(logprobs=3, stream=True, **settings)]
        parts = [part.logprobs for part in parts if part.logprobs]
        assert [token for part in parts for token in part.tokens] == told.tokens
        assert [offset for part in parts for offset in part.text_offset] == told.text_offset
        choice = self.chat(asks(self.png), logprobs=True, top_logprobs=2, temperature=1, seed=1).choices[0]
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens) == choice.message.content
        assert bytes(byte for token in tokens for byte in token.bytes).decode() == choice.message.content
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
        chunks = list(self.chat(asks(self.png), logprobs=True, temperature=1, seed=1, stream=True))
        streamed = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
        assert [token.logprob for token in streamed] == [token.logprob for token in tokens]

    def generations(self):
        one = self.client.images.generate(model=self.model, prompt=PROMPT, n=2, size="64x64", extra_body={"seed": 3})
        assert len(one.data) == 2 and one.data[0].b64_json != one.data[1].b64_json
        assert base64.b64decode(one.data[0].b64_json) == self.png
        second = self.client.images.generate(model=self.model, prompt=PROMPT, extra_body={"seed": 4})
        assert second.data[0].b64_json == one.data[1].b64_json
        assert opened(one.data[0].b64_json).size == (64, 64)
        try:
            self.client.images.generate(model=self.model, prompt=PROMPT, size="512x512")
            raise AssertionError("a size that there is not was taken")
        except openai.BadRequestError as error:
            assert error.param == "size" and "64x64" in error.message, error

    def generations_streamed(self):
        events = list(
            self.client.images.generate(
                model=self.model, prompt=PROMPT, stream=True, partial_images=3, extra_body={"seed": 9}
            )
        )
        kinds = [event.type.split(".")[1] for event in events]
        assert kinds == ["partial_image"] * 3 + ["completed"], kinds
        sizes = [opened(event.b64_json).size for event in events]
        assert sizes == [(64, 16), (64, 32), (64, 48), (64, 64)], sizes
        assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
        whole = self.client.images.generate(model=self.model, prompt=PROMPT, extra_body={"seed": 9, "candidates": 1})
        assert events[-1].b64_json == whole.data[0].b64_json

    def forms_of_answers(self):
        schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
        form = {"type": "json_schema", "json_schema": {"name": "color", "schema": schema, "strict": True}}
        try:
            answer = self.chat(asks(self.png), response_format=form)
        except openai.BadRequestError as error:
            assert "--features grammar" in error.message, error
            return "SKIPPED: the build has no grammars"
        assert json.loads(answer.choices[0].message.content)["color"] in ("red", "blue")
        choice = {"structured_outputs": {"choice": ["green", "yellow"]}}
        assert self.chat(asks(self.png), extra_body=choice).choices[0].message.content in ("green", "yellow")
        many = {"structured_outputs": {"choice": [f"choice {number}" for number in range(100_000)]}}
        try:
            self.chat(asks(self.png), extra_body=many)
            raise AssertionError("a hundred thousand choices were taken")
        except openai.BadRequestError as error:
            assert "too large" in error.message or "bytes" in error.message, error

    def tools(self):
        def function(name, **properties):
            schema = {"type": "object", "properties": properties, "required": list(properties)}
            schema["additionalProperties"] = False
            return {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}

        tools = [function("paint", color={"enum": ["red", "blue"]}), function("look")]
        named = {"type": "function", "function": {"name": "paint"}}
        settings = {"tools": tools, "tool_choice": named, "max_tokens": 100, "temperature": 1, "seed": 3}
        question = [{"role": "user", "content": "what color?"}]
        try:
            answer = self.chat(question, n=2, logprobs=True, **settings)
        except openai.BadRequestError as error:
            assert "--features grammar" in error.message, error
            return "SKIPPED: the build has no grammars"
        for choice in answer.choices:
            message, (call,) = choice.message, choice.message.tool_calls
            assert choice.finish_reason == "tool_calls" and message.content is None, choice
            assert call.function.name == "paint" and call.type == "function" and len(call.id) == 9
            assert json.loads(call.function.arguments)["color"] in ("red", "blue"), call
            assert call.function.arguments in "".join(token.token for token in choice.logprobs.content)
        chunks = list(self.chat(question, stream=True, **settings))
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert [delta.index for delta in deltas] == [0], deltas
        assert deltas[0].function == type(deltas[0].function)(
            name="paint", arguments=answer.choices[0].message.tool_calls[0].function.arguments
        )
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        names = set()
        for seed in range(8):
            (call,) = self.chat(question, **{**settings, "tool_choice": "required", "seed": seed}).choices[0].message.tool_calls
            names.add(call.function.name)
        assert names <= {"paint", "look"}, names
        # The call goes back with its result, and the answer to it is text.
        call = answer.choices[0].message.tool_calls[0]
        turns = question + [
            answer.choices[0].message.model_dump(exclude_none=True, exclude={"refusal"}),
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        choice = self.chat(turns, tools=tools, tool_choice="auto").choices[0]
        assert choice.message.content is not None and not choice.message.tool_calls, choice
        choice = self.chat(question, tools=tools, tool_choice="none").choices[0]
        assert choice == self.chat(question).choices[0]

    def edits(self):
        mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (0, 32, 64, 64))
        edited = self.client.images.edit(
            model=self.model,
            image=("image.png", self.png),
            mask=("mask.png", png_of(mask)),
            prompt="a large blue circle on a white background",
            extra_body={"seed": 1},
        )
        before, after = opened(base64.b64encode(self.png)).convert("RGB"), opened(edited.data[0].b64_json)
        assert after.size == (64, 64)
        assert after.crop((0, 0, 64, 16)).tobytes() == before.crop((0, 0, 64, 16)).tobytes()
        assert after.crop((0, 40, 64, 64)).tobytes() != before.crop((0, 40, 64, 64)).tobytes()

    def edits_of_large_images(self):
        noise = Image.frombytes("RGBA", (1000, 1000), random.Random(1).randbytes(4_000_000))
        noise.putalpha(255)
        noise.paste((0, 0, 0, 0), (0, 500, 1000, 1000))
        noise.paste(Image.frombytes("RGB", (1000, 500), random.Random(2).randbytes(1_500_000)), (0, 0))
        png = png_of(noise)
        padded = png[:-12] + self.chunk(b"teXt", bytes(3 << 20)) + png[-12:]
        edited = self.client.images.edit(
            model=self.model, image=("image.png", padded), prompt="a red circle", extra_body={"candidates": 1}
        )
        assert opened(edited.data[0].b64_json).size == (64, 64)

    @staticmethod
    def chunk(kind, content):
        """A chunk of a PNG file."""
        sum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum)

    def adapters_by_name(self):
        settings = {"prompt": "a", "temperature": 0, "max_tokens": 8}
        own, adapted = (
            self.client.completions.create(model=name, **settings).choices[0].text for name in self.names
        )
        assert own != adapted, own

    def tokens(self):
        def post(path, body):
            return self.client.post(path, body=body, cast_to=object)

        base = str(self.client.base_url).replace("/v1/", "")
        text = post(f"{base}/tokenize", {"prompt": "a red circle"})
        assert text["count"] == len(text["tokens"]) == len(text["token_strs"])
        assert post(f"{base}/detokenize", {"tokens": text["tokens"]})["prompt"] == "a red circle"
        chat = post(f"{base}/tokenize", {"messages": asks(self.png)})
        codes = [code for code in chat["image_codes"] if code is not None]
        assert len(codes) == 64, chat
        parts = post(f"{base}/detokenize", {"tokens": chat["tokens"]})["x_parts"]
        image = next(part for part in parts if part["type"] == "image_url")
        assert image["codes"] == codes and image["rows"] * image["columns"] == 64

    def faults(self):
        def refused(kind, said, call):
            try:
                call()
            except kind as error:
                assert said in error.message, error
                return error
            raise AssertionError(f"{said}: it was taken")

        question = [{"role": "user", "content": "what?"}]
        gone = refused(openai.NotFoundError, "there is no model", lambda: self.chat(question, model="other"))
        assert gone.code == "model_not_found" and gone.param == "model"
        refused(openai.BadRequestError, "temperature", lambda: self.chat(question, temperature=-1))
        refused(openai.BadRequestError, "allowed: 1 to", lambda: self.chat(question, n=0))
        refused(openai.BadRequestError, "logit_bias", lambda: self.chat(question, logit_bias={"1": 5}))
        refused(openai.BadRequestError, "unknown field", lambda: self.chat(question, extra_body={"tempo": 1}))
        assert self.chat(question, logit_bias={}, frequency_penalty=0, logprobs=False, tools=[]).choices
        refused(openai.BadRequestError, "nothing is fetched", lambda: self.chat(
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]}]))
        long = refused(openai.BadRequestError, "context", lambda: self.chat([{"role": "user", "content": "a " * 9000}]))
        assert long.code == "context_length_exceeded"
        refused(openai.APIStatusError, "too large", lambda: self.chat([{"role": "user", "content": "a" * (21 << 20)}]))
        stranger = self.client.with_options(api_key="other")
        refused(openai.AuthenticationError, "key is needed", lambda: stranger.models.list())

    def hostile_requests_leave_no_memory_behind(self):
        """What each is refused with is in tests/server.rs."""
        def bomb():
            png = png_of(Image.new("RGB", (1, 1)))
            header = struct.pack(">II", 60_000, 60_000) + png[24:29]
            return png[:8] + self.chunk(b"IHDR", header) + png[33:]

        deep = 100_000
        bodies = [
            ("/v1/chat/completions", json.dumps({"messages": asks(bomb())})),
            ("/v1/chat/completions", json.dumps({"messages": asks(png_of(Image.new("RGB", (5000, 5000))))})),
            ("/v1/chat/completions", json.dumps({"messages": asks(b"\x89PNG" * 3_000_000)})),
            ("/v1/chat/completions", '{"messages":' + "[" * deep + "]" * deep + "}"),
            ("/v1/chat/completions", '{"messages":[{"role":"user","content":"' + "a" * (19 << 20) + '"}]}'),
            ("/v1/chat/completions", '{"messages":[{"role":"user","content":[' + '{"type":"text","text":"<image>"},' * 400_000 + "{}]}]}"),
            ("/v1/completions", '{"prompt":[' + "[1]," * 2_000_000 + "[1]]}"),
            ("/v1/completions", json.dumps({"prompt": "a", "structured_outputs": {"choice": [str(n) for n in range(100_000)]}})),
            ("/v1/completions", json.dumps({"prompt": "a", "stop": ["a" * 1000] * 10_000})),
            ("/detokenize", json.dumps({"tokens": [1] * 5_000_000})),
        ]
        before, most = self.server.memory(), 0
        for _ in range(5):
            for path, body in bodies:
                status, content = self.server.send("POST", path, body)
                assert 400 <= status < 500, (path, body[:80], status, content[:200])
                most = max(most, self.server.memory())
            assert self.chat(asks(self.png)).choices[0].message.content == "red"
        # What was free for a second is given back with the next work.
        time.sleep(2)
        self.chat(asks(self.png))
        after = self.server.memory()
        assert after - before < 50, (before, most, after)
        return f"{before:.0f} MiB before, at most {most:.0f}, {after:.0f} after"

    def answers_are_as_documented(self):
        """The OpenAPI document is one, and what routes answer has the fields that it lists, and no others."""
        document = json.loads(self.server.ask("GET", "/openapi.json")[1])
        openapi_spec_validator.validate(document)
        schemas = document["components"]["schemas"]
        parts = {one["$ref"] for schema in schemas.values() for one in schema.get("allOf", []) if "$ref" in one}
        for name, schema in schemas.items():
            if "properties" in schema and f"#/components/schemas/{name}" not in parts:
                schema.setdefault("additionalProperties", False)

        def check(method, path, body=None, status="200", form="application/json", at=None):
            content = document["paths"][at or path][method.lower()]["responses"][status]["content"]
            schema = content[form]["schema"] | {"components": document["components"]}
            answer = self.server.ask(method, path, body)[1].decode()
            if form == "application/json":
                values = [answer]
            else:
                values = [line[6:] for line in answer.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
            assert values, (path, answer[:200])
            for value in values:
                jsonschema.validate(json.loads(value), schema, jsonschema.Draft202012Validator)
            return values

        stream = "text/event-stream"
        chat = {"messages": asks(self.png), "logprobs": True, "top_logprobs": 1, "n": 2}
        draws = {"messages": [{"role": "user", "content": PROMPT}], "modalities": ["image"], "partial_images": 2}
        tool = {"type": "function", "function": {"name": "look"}}
        calls = {"messages": asks(self.png), "tools": [tool], "tool_choice": "required", "max_tokens": 60}
        text = {"prompt": ["a red", "a"], "logprobs": 2, "max_tokens": 5}
        for body in (chat, draws, calls):
            check("POST", "/v1/chat/completions", body)
            check("POST", "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}, form=stream)
        check("POST", "/v1/completions", text)
        check("POST", "/v1/completions", text | {"stream": True}, form=stream)
        check("POST", "/v1/images/generations", {"prompt": PROMPT})
        check("POST", "/v1/images/generations", {"prompt": PROMPT, "stream": True, "partial_images": 1}, form=stream)
        check("GET", "/v1/models")
        check("GET", f"/v1/models/{self.model}", at="/v1/models/{name}")
        check("POST", "/tokenize", {"messages": asks(self.png)})
        (tokens,) = check("POST", "/tokenize", {"prompt": "a red"})
        check("POST", "/detokenize", {"tokens": json.loads(tokens)["tokens"]})
        check("GET", "/health")
        check("POST", "/v1/completions", {"prompt": 5}, status="default")
        return f"{len(document['paths'])} paths"

    def dashboard_knows_the_metrics(self):
        """Every name in deploy/grafana.json is one of the server's."""
        dashboard = pathlib.Path(__file__).resolve().parent.parent.joinpath("deploy/grafana.json").read_text()
        wanted = set(re.findall(r"calumma_\w+", dashboard))
        told = self.server.ask("GET", "/metrics")[1].decode()
        known = {re.split(r"[ {]", line)[0] for line in told.splitlines() if not line.startswith("#")}
        assert len(wanted) > 15 and not wanted - known, wanted - known

    def same_alone_and_among_32(self):
        def ask(index):
            if index % 2:
                drawn = self.client.images.generate(
                    model=self.model, prompt=PROMPT, extra_body={"seed": index, "candidates": 1}
                )
                return drawn.data[0].b64_json
            answer = self.chat(asks(self.png, "what is in the picture?"), temperature=1, seed=index)
            return answer.choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            together = list(pool.map(ask, range(32)))
        for index in (0, 1, 30, 31):
            assert together[index] == ask(index), index

    def cancelled(self):
        stream = self.chat(
            [{"role": "user", "content": PROMPT}], stream=True, n=8, extra_body={"modalities": ["image"]}
        )
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 5
        while self.running() > 0:
            assert time.monotonic() < deadline, "a cancelled answer goes on"
            time.sleep(0.02)

    def running(self):
        return self.server.metric("num_requests_running")

    def queue_full(self):
        once = self.client.with_options(max_retries=0)

        def draw(client):
            return client.images.generate(model=self.model, prompt=PROMPT, n=16, extra_body={"candidates": 3})

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            first = pool.submit(draw, self.client)
            while self.running() < 16:
                time.sleep(0.01)
            start = time.monotonic()
            try:
                draw(once)
                raise AssertionError("a full queue took a request")
            except openai.RateLimitError as error:
                took = time.monotonic() - start
                assert error.code == "queue_full" and error.response.headers["retry-after"] == "1"
            # The client's own retries wait until there is room.
            patient = self.client.with_options(max_retries=30)
            assert len(draw(patient).data) == 16 and len(first.result().data) == 16
        return f"refused in {1000 * took:.1f} ms"


def main():
    calumma, checkpoint = sys.argv[1:]
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        adapter, key = pathlib.Path(directory, "adapter"), pathlib.Path(directory, "key")
        adapter.mkdir()
        write_adapter(adapter)
        key.write_text(KEY + "\n")
        settings = ["--api-key-file", key, "--adapter", f"tuned={adapter}", "--queue", 64]
        with Server(calumma, checkpoint, *settings, key=KEY) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=2)
            cases = Cases(client, [model.id for model in client.models.list()], server)
            tests = [name for name in vars(Cases) if not name.startswith("_") and name not in ("chat", "running", "chunk")]
            for name in tests:
                try:
                    note = getattr(cases, name)()
                    print(f"ok      {name}" + (f": {note}" if note else ""))
                except Exception:
                    failed += 1
                    print(f"FAILED  {name}\n{traceback.format_exc()}")
            print(f"{len(tests) - failed} of {len(tests)} cases")
    sys.exit(failed > 0)


main()
