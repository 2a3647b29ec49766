#!/usr/bin/env python3
"""Score random cases with the public metrics that calumma's metrics must equal.

Usage: metrics_peer.py TOPIC OUT_DIR [FILE...]

writes OUT_DIR/TOPIC.json; exits with 77 and a message if a package is missing:

  captions  200 corpora: BLEU, ROUGE-L, CIDEr of pycocoevalcap
  answers   10,000 answers normalised, 2,000 questions scored: the official VQA evaluator
  evalai    the same: lmms-eval's processor and its accuracy of VQAv2 and TextVQA
  squad     2,000 short answers: exact match and F1 of torchmetrics' SQuAD
  texts     tokens by pycocoevalcap's Java tokenizer of every line of FILE...
  images    50 pairs as raw RGB files: scikit-image, pytorch-msssim, and a formula in float64
  fid       pytorch-fid's network with random weights on 12 images, and its distances of 20 pairs of sets

metrics_peer.py ptb-fixture FILE updates the tokens in a file of {"text", "tokens"} lines.

The originals are not copied here. pycocoevalcap, lmms-eval, torchmetrics, scikit-image, pytorch-fid and
pytorch-msssim come from the Python registry; the VQA evaluator from a checkout of
GT-Vision-Lab/VQA that CALUMMA_VQA_EVAL names.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys

SKIPPED = 77


def skip(reason):
    print(reason, file=sys.stderr)
    sys.exit(SKIPPED)


def package(name, install=None):
    try:
        return importlib.import_module(name)
    except ImportError:
        skip(f"{name} is missing: pip install {install or name.split('.')[0]}")


def from_file(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Captions


def random_text(rng, vocabulary, longest):
    """Words with repeated runs and odd blanks; sometimes empty."""
    if rng.random() < 0.05:
        return ""
    words = [rng.choice(vocabulary) for _ in range(rng.randint(1, longest))]
    if rng.random() < 0.3:
        start = rng.randrange(len(words))
        words += words[start : start + rng.randint(1, 4)] * rng.randint(1, 2)
    blanks = [" "] if rng.random() < 0.9 else [" ", "  ", "\u00a0", "\u3000", "\x1c", "\t"]
    return "".join(word + rng.choice(blanks) for word in words).removesuffix(" ")


def captions(out, _):
    bleu = package("pycocoevalcap.bleu.bleu")
    rouge = package("pycocoevalcap.rouge.rouge")
    cider = package("pycocoevalcap.cider.cider")
    rng = random.Random(1)
    alphabet = ["a", "the", "dog", "n't", "'s", "3.5", "é", "犬", "ß", "-lrb-", "🐕", "и", "x-y"]
    corpora = []
    for index in range(200):
        size = rng.choice([2, 5, 20, 100, 1000])
        vocabulary = (alphabet + [f"w{i}" for i in range(size)])[:size] if index % 3 else alphabet
        images = 1 if index % 10 == 0 else rng.randint(2, 25)
        hypotheses, references = {}, {}
        for image in range(images):
            longest = rng.choice([3, 12, 40])
            references[image] = [
                random_text(rng, vocabulary, longest)
                for _ in range(1 if index % 7 == 0 else rng.randint(1, 6))
            ]
            hypotheses[image] = [random_text(rng, vocabulary, longest)]
            if rng.random() < 0.1:
                hypotheses[image] = [references[image][0]]
        b, b_each = bleu.Bleu(4).compute_score(references, hypotheses, verbose=0)
        r, r_each = rouge.Rouge().compute_score(references, hypotheses)
        c, c_each = cider.Cider().compute_score(references, hypotheses)
        corpora.append(
            {
                "hypotheses": [hypotheses[i][0] for i in range(images)],
                "references": [references[i] for i in range(images)],
                "corpus": list(map(float, b)) + [float(r), float(c)],
                "each": [
                    [float(v) for v in (*(n[i] for n in b_each), r_each[i], c_each[i])]
                    for i in range(images)
                ],
            }
        )
    return corpora


# Answers

PIECES = (
    list(" " * 12 + ";/[]\"{}()=+\\_-><@`,?!.'#$%&*:|~^" + ",,..''")
    + list("0123456789") + ["٣", "²", "½", "x", "é", "É", "日", "ß", "İ", "\t", "\n", "\u00a0", "\x1c"]
    + ["a", "an", "the", "The", "none", "zero", "one", "Two", "ten", "1,000", "3.5", "1,,0", "'s"]
    + ["yes", "No", "red", "tv", "U.S.A.", "it's", "....", " . ", ", ", " ,", "o'clock", "5."]
)


def answers_of(rng, contractions):
    known = sorted(set(contractions) | set(contractions.values()))
    known += [w[:i] + w[i + 1 :] for w in known for i, c in enumerate(w) if c == "'"]
    texts = known + [word.capitalize() for word in known] + [f"{word} x" for word in known]
    while len(texts) < 10_000:
        pieces = PIECES + ([rng.choice(known)] * 8 if rng.random() < 0.3 else [])
        texts.append("".join(rng.choice(pieces) for _ in range(rng.randint(0, 9))))
    return texts


def questions_of(rng, texts):
    few = ["yes", "Yes", "yes.", "no", "the red", "red", "2", "two", " red", "red\n", "dont", "don't"]
    for _ in range(2_000):
        pool = [rng.choice(few + texts) for _ in range(rng.randint(1, 4))]
        people = [rng.choice(pool) for _ in range(10)]
        yield rng.choice(pool + few), people


def official_evaluator():
    """The class of the evaluator, whose file is Python 2 because of two print statements."""
    root = os.environ.get("CALUMMA_VQA_EVAL", "")
    path = pathlib.Path(root, "PythonEvaluationTools/vqaEvaluation/vqaEval.py")
    if not root or not path.exists():
        skip("CALUMMA_VQA_EVAL names no checkout of GT-Vision-Lab/VQA")
    source = re.sub(r'^(\s*)print (".*")\s*$', r"\1pass", path.read_text(), flags=re.MULTILINE)
    scope = {}
    exec(compile(source.expandtabs(8), str(path), "exec"), scope)
    scope["VQAEval"].updateProgress = lambda self, progress: None
    return scope["VQAEval"]


class Questions:
    """As much of the VQA data API as the evaluator calls."""

    def __init__(self, qa):
        self.qa = qa

    def getQuesIds(self):
        return list(self.qa)


def answers(out, _):
    evaluator = official_evaluator()
    plain = evaluator(Questions({}), Questions({}))
    rng = random.Random(2)
    texts = answers_of(rng, plain.contractions)

    def normalize(text):
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return plain.processDigitArticle(plain.processPunctuation(text))

    questions = []
    for prediction, people in questions_of(rng, texts):
        kinds = {"question_type": rng.choice("ab"), "answer_type": rng.choice("cd")}
        given = [{"answer": text, "answer_id": i} for i, text in enumerate(people)]
        one = evaluator(Questions({0: {"answers": given, **kinds}}), Questions({0: {"answer": prediction}}), n=12)
        one.evaluate()
        questions.append({"prediction": prediction, "people": people, "official": one.evalQA[0] / 100, **kinds})
    truth = {
        i: {
            "answers": [{"answer": text, "answer_id": j} for j, text in enumerate(q["people"])],
            "question_type": q["question_type"],
            "answer_type": q["answer_type"],
        }
        for i, q in enumerate(questions)
    }
    given = {i: {"answer": q["prediction"]} for i, q in enumerate(questions)}
    whole = evaluator(Questions(truth), Questions(given), n=12)
    whole.evaluate()
    return {
        "texts": [{"text": text, "official": normalize(text)} for text in texts],
        "questions": questions,
        "summary": whole.accuracy,
    }


def evalai(out, _):
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None:
        skip("lmms_eval is missing: pip install --no-deps lmms-eval")
    # By its path: the package itself imports all of its models.
    root = pathlib.Path(next(iter(spec.submodule_search_locations)))
    path = root / "tasks/_task_utils/vqa_eval_metric.py"
    processor = from_file("vqa_eval_metric", path).EvalAIAnswerProcessor()
    rng = random.Random(3)
    texts = answers_of(rng, processor.CONTRACTIONS)

    def steps(text):
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return processor.process_digit_article(processor.process_punctuation(text))

    def accuracy(normalize, prediction, people):
        # As in lmms-eval's tasks, which import too much to be called.
        people, prediction = [normalize(text) for text in people], normalize(prediction)
        matches = [sum(prediction == other for j, other in enumerate(people) if i != j) for i in range(len(people))]
        return sum(min(1, m / 3) for m in matches) / len(people)

    questions = [
        {
            "prediction": prediction,
            "people": people,
            "lmms_vqa": accuracy(steps, prediction, people),
            "evalai": accuracy(processor, prediction, people),
        }
        for prediction, people in questions_of(rng, texts)
    ]
    texts = [{"text": t, "lmms_vqa": steps(t), "evalai": processor(t)} for t in texts]
    return {"texts": texts, "questions": questions}


def squad(out, _):
    package("torchmetrics")
    from torchmetrics.functional.text import squad as score

    rng = random.Random(4)
    words = ["a", "An", "the", "red", "Heart", "heart!", "it's", "3.5", "U.S.", "é", "--", "theatre"]
    words += ["a-b", "日本", "x_the_y"]
    text = lambda: rng.choice([" ", "  ", " "]).join(rng.choice(words) for _ in range(rng.randint(0, 5)))
    cases = []
    for index in range(2_000):
        prediction, references = text(), [text() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.2:
            prediction = references[0].upper()
        target = {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "0"}
        result = score([{"prediction_text": prediction, "id": "0"}], [target])
        cases.append(
            {
                "prediction": prediction,
                "references": references,
                "exact_match": float(result["exact_match"]) / 100,
                "f1": float(result["f1"]) / 100,
            }
        )
    return cases


# Tokens


def tokens_of(lines):
    """What PTBTokenizer of pycocoevalcap makes of captions, one per image."""
    tokenizer = package("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = pathlib.Path(tokenizer.__file__).with_name(tokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    try:
        run = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True)
    except FileNotFoundError:
        skip("java is missing")
    dropped = set(tokenizer.PUNCTUATIONS)
    rows = run.stdout.decode().split("\n")[: len(lines)]
    return [" ".join(w for w in row.rstrip().split(" ") if w not in dropped) for row in rows]


def texts(out, files):
    lines = []
    for file in files:
        lines += pathlib.Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [{"text": text, "tokens": tokens} for text, tokens in zip(lines, tokens_of(lines))]


def ptb_fixture(file):
    rows = [json.loads(line) for line in pathlib.Path(file).read_text(encoding="utf-8").splitlines()]
    with open(file, "w", encoding="utf-8") as target:
        for row, tokens in zip(rows, tokens_of([row["text"] for row in rows])):
            target.write(json.dumps({"text": row["text"], "tokens": tokens}, ensure_ascii=False) + "\n")


# Images

SCALES = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def gaussian(np):
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    return taps / taps.sum()


def ms_ssim(np, a, b):
    """Multi-scale SSIM of one channel in float64, with as many scales as an 11-tap window fits."""
    taps = gaussian(np)

    def blur(x):
        windows = np.lib.stride_tricks.sliding_window_view
        return windows(windows(x, 11, axis=0) @ taps, 11, axis=1) @ taps

    count = 1
    while count < 5 and min(a.shape) >> count >= 11:
        count += 1
    weights = np.array(SCALES[:count])
    if count < 5:
        weights = weights / weights.sum()
    product = 1.0
    for scale, weight in enumerate(weights):
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
        contrast = (2 * cov + 0.0009) / (va + vb + 0.0009)
        luminance = (2 * ma * mb + 0.0001) / (ma * ma + mb * mb + 0.0001)
        value = (contrast * luminance if scale == count - 1 else contrast).mean()
        product *= max(value, 0.0) ** weight
        h, w = a.shape[0] // 2 * 2, a.shape[1] // 2 * 2
        a, b = (x[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3)) for x in (a, b))
    return product


def images(out, _):
    np = package("numpy")
    metrics = package("skimage.metrics", "scikit-image")
    msssim = package("pytorch_msssim", "pytorch-msssim")
    torch = package("torch")
    rng = np.random.default_rng(5)
    cases = []
    for index in range(50):
        if index % 2:
            # Sizes that pytorch-msssim halves without padding.
            height, width = (16 * rng.integers(11, 16, 2)).tolist()
        else:
            height, width = rng.integers(11, 120, 2).tolist()
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 100 * np.sin(x / rng.uniform(2, 20) + c) * np.cos(y / rng.uniform(2, 20)) for c in range(3)]
        first = np.stack(waves, axis=2)
        second = first + rng.normal(0, rng.uniform(0.5, 80), first.shape) + rng.uniform(-30, 30)
        if index % 9 == 0:
            second = rng.uniform(0, 255, first.shape)
        pair = [p.clip(0, 255).astype(np.uint8) for p in (first, second)]
        for side, image in zip("ab", pair):
            (out / f"{index}{side}.rgb").write_bytes(image.tobytes())
        a, b = (image / 255.0 for image in pair)
        ssim = metrics.structural_similarity(
            a, b, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        case = {
            "width": width,
            "height": height,
            "psnr": float(metrics.peak_signal_noise_ratio(a, b, data_range=1.0)),
            "ssim": float(ssim),
            "ms_ssim": float(np.mean([ms_ssim(np, a[..., c], b[..., c]) for c in range(3)])),
        }
        if index % 2:
            tensors = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (a, b)]
            # Its own window is in float32.
            window = torch.from_numpy(gaussian(np)).repeat(3, 1, 1, 1)
            case["pytorch_msssim"] = float(msssim.ms_ssim(*tensors, data_range=1.0, win=window))
        cases.append(case)
    return cases


# FID


def fid(out, _):
    np = package("numpy")
    torch = package("torch")
    inception = package("pytorch_fid.inception", "pytorch-fid")
    score = package("pytorch_fid.fid_score", "pytorch-fid")
    linalg = package("scipy.linalg", "scipy")
    torchvision = package("torchvision")
    torch.manual_seed(1)

    def random_weights(*_, **__):
        """A state in place of the published one, which keeps the size of what passes through."""
        network = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.7, 1.3)
                torch.nn.init.normal_(module.bias, 0, 0.1)
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        torch.save(network.state_dict(), out / "weights.pth", _use_new_zipfile_serialization=False)
        return network.state_dict()

    inception.load_state_dict_from_url = random_weights
    network = inception.InceptionV3([3]).eval()
    rng = np.random.default_rng(7)
    sizes, features = [], []
    for index in range(12):
        height, width = rng.integers(20, 400, 2).tolist()
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 100 * np.sin(x / rng.uniform(2, 20) + c) * np.cos(y / rng.uniform(2, 20)) for c in range(3)]
        image = (np.stack(waves, axis=2) + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
        (out / f"{index}.rgb").write_bytes(image.tobytes())
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0
        with torch.no_grad():
            features.append(network(pixels)[0].flatten().tolist())
        sizes.append([width, height])
    # Newer SciPy returns the root alone.
    sqrtm = linalg.sqrtm
    score.linalg.sqrtm = lambda x, disp=True: sqrtm(x) if disp else (sqrtm(x), None)
    pairs = []
    for index in range(20):
        width = int(rng.integers(2, 40))
        sets = []
        for _ in range(2):
            mixed = rng.normal(0, 1, (width, width)) + 3 * np.eye(width)
            rows = int(rng.integers(width + 20, 400))
            sets.append((rng.normal(0, 1, (rows, width)) @ mixed + rng.normal(0, 1, width)).astype(np.float32))
        moments = [(s.astype(np.float64).mean(0), np.cov(s.astype(np.float64), rowvar=False)) for s in sets]
        distance = score.calculate_frechet_distance(*moments[0], *moments[1])
        pairs.append({"a": sets[0].tolist(), "b": sets[1].tolist(), "distance": float(distance)})
    return {"sizes": sizes, "features": features, "pairs": pairs}


def main():
    topics = {f.__name__: f for f in (captions, answers, evalai, squad, texts, images, fid)}
    if sys.argv[1:2] == ["ptb-fixture"] and len(sys.argv) == 3:
        return ptb_fixture(sys.argv[2])
    if len(sys.argv) < 3 or sys.argv[1] not in topics:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[2])
    result = topics[sys.argv[1]](out, sys.argv[3:])
    (out / f"{sys.argv[1]}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
