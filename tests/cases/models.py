"""Folders about models, caches and what is made of texts: templates, precision, ties, cut texts, formats, sequences."""

from __future__ import annotations

import io
import json
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from .runner import MODEL, Case, check, holds, lacks, same, variable, workspace


def cache_is_folder(case: Case) -> None:
    for name, value in {
        "a folder": "kept",
        "a folder that is not there, with a stroke": "new/",
        "a file": "c.sqlite",
    }.items():
        with case.judge(name) as say, variable("GRACE_CACHE", f"{case.work}/{value}"):
            if name == "a folder":
                (case.work / value).mkdir()
            run = case.build(case.folder.parent / "tiny" / "one.jsonl", case.work / f"x-{value.strip('/.')}")
            same(run.result()["models"][MODEL]["encoded"], 1)
            file = case.work / value / ("" if name == "a file" else "representations.sqlite")
            check(file.is_file(), f"no {file}")
            say(file.relative_to(case.work))
    with case.judge("below a file") as say, variable("GRACE_CACHE", f"{case.work}/c.sqlite/x.sqlite"):
        error = case.build(case.folder.parent / "tiny" / "one.jsonl", case.work / "y").refusal()
        holds(error, "set GRACE_CACHE to a file")
        lacks(error, "remove")
        check(not (case.work / "y").exists(), "a collection")
        say(error)


REFUSED = {
    "broken-syntax": "cannot be read (line 1)",
    "content-twice": "shows the user's text 2 times",
    "content-upper": "alters the user's text",
    "no-template": "has no chat template",
}
OPENED = {"no-generation-prompt": "<|im_start|>assistant\n"}
PLACES = {"gemma-refuses-system": "user"}


def chat_templates(case: Case) -> None:
    from grace_core.sources import DEMO_MODELS_DIR

    names = [path.stem for path in sorted(case.folder.glob("*.jinja"))]
    for name in [*names, "no-template"]:
        model = case.work / "models" / name
        shutil.copytree(DEMO_MODELS_DIR / MODEL, model)
        (model / "chat_template.jinja").unlink()
        if name in names:
            shutil.copy(case.folder / f"{name}.jinja", model / "chat_template.jinja")
        if name == "bos-in-template":
            with_first_token(model)
        with case.judge(name) as say:
            judge_template(case, name, model, say)
    with case.judge("qwen3-thinking, an argument") as say:
        out, model = case.work / "x-thought", case.work / "models" / "qwen3-thinking"
        options = ("--dtype", "float32", "--template", "enable_thinking=false")
        case.build(case.folder / "docs.jsonl", out, *options, model=model).result()
        manifest = json.loads((out / "qwen3-thinking" / "manifest.json").read_text())
        same(manifest["settings"]["template"], {"enable_thinking": False})
        found = case.grace("explain", out, "river", "a", "--model", "qwen3-thinking", "--json").result()
        check(abs(found["residual"]) <= 1e-5, found["residual"])
        say("kept in the manifest, used by explain")


def with_first_token(model: Path) -> None:
    """A tokenizer that puts a first token in front of every text, as its template does too."""
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|endoftext|>", "add_bos_token": True}))
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    (first,) = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>"]
    one, other = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, one],
        "pair": [one, other],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [first], "tokens": ["<|endoftext|>"]}},
    }
    path.write_text(json.dumps(tokenizer))


def judge_template(case: Case, name: str, model: Path, say: Callable) -> None:
    out = case.work / f"x-{name}"
    run = case.build(
        case.folder / "docs.jsonl", out, "--dtype", "float32", model=model
    )  # in bfloat16 the residual is larger
    if name in REFUSED:
        holds(run.refusal(), REFUSED[name], "chat_template.jinja")
        check(not out.exists(), "a collection is left")
        say(run.refusal())
        return
    same(run.result()["models"][name]["encoded"], 3)
    manifest = json.loads((out / name / "manifest.json").read_text())
    prompt = manifest["prompt"]
    same((prompt["place"], prompt["opening"]), (PLACES.get(name, "system"), OPENED.get(name)))
    same(prompt["content"], "parts" if name == "content-parts" else "text")
    same(prompt["date"], "2025-01-01" if name == "llama-date-day" else None)
    found = case.grace("explain", out, "liquid metal", "b", "--model", name, "--json").result()
    check(abs(found["residual"]) <= 1e-5, f"residual {found['residual']}")
    from grace_core.index import GraceIndex

    index = GraceIndex(out, name)
    lacks("\n".join(index.rationales), "assistant", "im_start")
    loaded = index.load_model()
    made = loaded.prompts.build("A violin.")
    same(loaded.tokenizer.decode(made.ids[made.start : made.stop]).strip(), "A violin.")
    if name == "bos-in-template":
        same(loaded.tokenizer.decode(made.ids).count("<|endoftext|>"), 1)
    if name == "llama-date-day":
        with days_later(45):
            later = case.grace("explain", out, "liquid metal", "b", "--model", name, "--json").result()
        same((later["score"], later["residual"]), (found["score"], found["residual"]))
    say(f"prompt in the {prompt['place']} message, residual {found['residual']:.0e}")


@contextmanager
def days_later(days: int) -> Iterator[None]:
    """What chat templates see of the day is so many days on."""
    import transformers.utils.chat_template_utils as utils

    real = utils.datetime

    class Later(real):
        @classmethod
        def now(cls, tz=None):
            return real.fromtimestamp(real.now(tz).timestamp() + 86400 * days, tz)

    utils.datetime = Later
    try:
        yield
    finally:
        utils.datetime = real


def dtype_mismatch(case: Case) -> None:
    from grace_core.sources import PACKAGES

    models = {MODEL: (), "smollm2": ("--limit", 2)} if PACKAGES["smollm2"].path() else {MODEL: ()}
    for model, options in models.items():
        with case.judge(f"real.jsonl with {model} in bfloat16") as say:
            out, settings = (
                case.work / f"x-{model}",
                ("--dtype", "bfloat16", "--max-new-tokens", 40, "--geometry", "raw"),
            )
            case.build(case.folder / "real.jsonl", out, *settings, *options, model=model).result()
            same(json.loads((out / model / "manifest.json").read_text())["dtype"], "bfloat16")
            rows = [json.loads(line) for line in (case.folder / "real.jsonl").read_text().splitlines()]
            for row in rows[1:2]:
                (hit,) = case.grace("search", out, row["text"], "--model", model, "-k", 1, "--json").result()
                same(hit["id"], row["_id"])
                check(abs(hit["score"] - 1) < 1e-4, f"{hit['score']} for {row['_id']}")
            say(f"a query like a document scores {hit['score']:.5f}")


def dups(case: Case) -> None:
    copies, out = [f"c{i}" for i in range(100)], case.work / "x"
    case.build(case.folder / "100-copies-and-20.jsonl", out).result()
    for kind in ("flat", "hnsw"):
        with case.judge(f"100-copies-and-20.jsonl, {kind}") as say:
            case.grace("index", "faiss", out, "--model", MODEL, "--kind", kind, "--json").result()
            for k in (1, 5, 10, 100):
                hits = case.grace("search", out, "liquid metal", "--model", MODEL, "-k", k, "--json").result()
                same([hit["id"] for hit in hits], copies[:k])
            for place in (0, 57):
                same(
                    case.grace("explain", out, "liquid metal", f"c{place}", "--model", MODEL, "--json").result()[
                        "rank"
                    ],
                    place + 1,
                )
            say("ties in the order of the corpus for k 1 to 100, and explain gives the rank of search")
    with case.judge("100-copies.jsonl"):
        case.build(case.folder / "100-copies.jsonl", case.work / "y").result()
        hits = case.grace("search", case.work / "y", "liquid metal", "--model", MODEL, "-k", 7, "--json").result()
        same([hit["id"] for hit in hits], copies[:7])
    for name, recall in {"eval-c0": 1.0, "eval-c99": 0.0}.items():
        with case.judge(name) as say:
            case.build(case.folder / name, case.work / name).result()
            found = case.grace("eval", "retrieval", case.work / name, "--model", MODEL, "--bm25", "--json").result()
            ways = (MODEL, "bm25")  # to the texts alone other documents are nearer
            same({way: found[way]["recall@10"] for way in ways}, dict.fromkeys(ways, recall))
            say(f"recall@10 {recall} in {', '.join(ways)}")


def long_text(case: Case) -> None:
    out, vectors = case.work / "x", case.work / "x.parquet"
    cut = {"long-tail", "long-head", "no-spaces", "one-char"}
    with case.judge("docs.jsonl, index build"):
        run = case.grace("index", "build", case.folder / "docs.jsonl", "--out", out, "--model", MODEL)
        check(run.status == 0 and re.search(r"4 (of 6 )?texts? .*cut", run.out), run.out)
    with case.judge("docs.jsonl, index info"):
        run = case.grace("index", "info", out)
        check(run.status == 0 and re.search(r"4 (of 6 )?texts? .*cut", run.out), run.out)
    with case.judge("docs.jsonl, search"):
        hits = case.grace("search", out, "violin with four strings made of maple", "--model", MODEL, "--json").result()
        same({hit["id"] for hit in hits if hit["text_truncated"]}, cut)
        check(all("truncated" in hit for hit in hits), hits[0])
    with case.judge("docs.jsonl, encode"):
        run = case.grace("encode", case.folder / "docs.jsonl", "--model", MODEL, "--out", vectors)
        check(run.status == 0 and re.search(r"4 (of 6 )?texts? .*cut", run.out), run.out)
    with case.judge("docs.jsonl, the app's API"):
        from grace_app.api import search_api

        found = search_api(workspace(case.work), "violin with four strings made of maple", "x", MODEL, True, 10)
        same({hit["id"] for hit in found["hits"] if hit["text_truncated"]}, cut)


def models_formats(case: Case) -> None:
    from gguf_writing import tiny_lm, write_gguf
    from transformers import AutoTokenizer

    from grace_core.sources import DEMO_MODELS_DIR

    one, base = case.folder.parent / "tiny" / "one.jsonl", DEMO_MODELS_DIR / MODEL
    tokenizer = AutoTokenizer.from_pretrained(base)
    (case.work / "gguf").mkdir()
    file = write_gguf(case.work / "gguf" / "tiny.gguf", tiny_lm("llama", tokenizer), tokenizer, "llama")
    adapter = write_adapter(case.work / "adapter", base)
    for name, model in {
        "a GGUF file": file,
        "a folder with only .gguf": file.parent,
        "a LoRA adapter": adapter,
    }.items():
        with case.judge(name) as say:
            out = case.work / "v.parquet"
            told = case.grace("encode", one, "--model", model, "--out", out, "--max-new-tokens", 8, "--json").result()
            same(told["documents"], 1)
            say(f"encoded, {told['dim']} dimensions")
    pickled = case.work / "pickled"
    shutil.copytree(base, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (case.work / "cut.gguf").write_bytes(file.read_bytes()[:5000])
    (case.work / "words.gguf").write_text("no model")
    for model, parts in {
        pickled: ("pytorch_model.bin only, a pickle", "convert it"),
        case.work / "cut.gguf": ("cut off or damaged", "download it again"),
        case.work / "words.gguf": ("is no GGUF file",),
        case.folder: ("without config.json, so not a model",),
    }.items():
        with case.judge(model.name) as say:
            error = case.grace("encode", one, "--model", model, "--out", case.work / "w.parquet").refusal()
            holds(error, *parts)
            check(not (case.work / "w.parquet").exists(), "a file")
            say(error.replace(str(case.work), ""))


def write_adapter(folder: Path, base: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, **options)).save_pretrained(folder)
    return folder


def pandas_series(case: Case) -> None:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        runpy.run_path(str(case.folder / "run.py"), run_name="__main__")
    lines = out.getvalue().splitlines()
    with case.judge("run.py, a shuffled Series"):
        holds(lines[0], "rows as asked for: True", "label order instead: False")
    with case.judge("run.py, one with a gap"):
        same(lines[1], "gap: (2, 192)")
    with case.judge("run.py, its cache later"):
        holds(lines[2], "right vectors: True")
        same(lines[3].split(None, 1)[1], lines[4].split(None, 1)[1])
