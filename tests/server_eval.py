"""A second client: Inspect (inspect_ai), a framework for evaluations, asks about drawn scenes through the server.

python server_eval.py CALUMMA CHECKPOINT

Prints its accuracy beside that of `calumma eval vqa` on the same questions; exit code 1 if they differ.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from server_process import Server

COUNT, SEED = 12, 11


def questions(directory):
    """All questions, each a message with the scene's image."""
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText

    for line in directory.joinpath("metadata.jsonl").read_text().splitlines():
        scene = json.loads(line)
        png = base64.b64encode(directory.joinpath(scene["file_name"]).read_bytes()).decode()
        image = ContentImage(image=f"data:image/png;base64,{png}")
        for asked in scene["questions"]:
            message = ChatMessageUser(content=[image, ContentText(text=asked["question"])])
            yield Sample(input=[message], target=asked["answer"])


def main():
    calumma, checkpoint = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root, Server(calumma, checkpoint, "--name", "demo") as server:
        root = pathlib.Path(root)
        make = [calumma, "data", "scenes", "--split", "val", "--count", str(COUNT), "--seed", str(SEED), "--quiet"]
        subprocess.run([*make, "--out", root / "scenes"], check=True, stdout=subprocess.DEVNULL)
        own = [calumma, "eval", "vqa", checkpoint, str(root / "scenes"), "--out", root / "eval", "--quiet"]
        subprocess.run(own, check=True, stdout=subprocess.DEVNULL)
        samples = [json.loads(line) for line in (root / "eval/samples.jsonl").read_text().splitlines()]
        os.environ |= {"CALUMMA_API_KEY": "none", "CALUMMA_BASE_URL": f"{server.url}/v1", "INSPECT_LOG_DIR": str(root / "logs")}
        from inspect_ai import Task, eval
        from inspect_ai.model import GenerateConfig
        from inspect_ai.scorer import exact

        task = Task(dataset=list(questions(root / "scenes")), scorer=exact(), config=GenerateConfig(temperature=0, max_tokens=20))
        [log] = eval(task, model="openai-api/calumma/demo", display="none", max_connections=16)
        assert log.status == "success", log.error
        theirs = [sample.output.completion for sample in sorted(log.samples, key=lambda sample: sample.id)]
        accuracy = log.results.scores[0].metrics["mean"].value
    ours = [sample["response"] for sample in samples]
    right = sum(sample["scores"]["exact_match"] for sample in samples) / len(samples)
    differ = [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]]
    print(f"Inspect: {accuracy:.3f} right of {len(theirs)} questions, calumma eval vqa: {right:.3f}; {len(differ)} answers differ {differ[:3]}")
    sys.exit(bool(differ) or len(theirs) < COUNT)


if __name__ == "__main__":
    main()
