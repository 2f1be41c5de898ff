"""The ``grace`` command. Thin: parses, calls the library, prints. With ``--json`` one document on stdout, progress on stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from grace_cli.app import app_command
from grace_cli.bench import bench_app
from grace_cli.eval_geometry import geometry_command
from grace_cli.eval_headroom import headroom_command
from grace_cli.eval_mteb import mteb_command
from grace_cli.eval_retention import retention_command
from grace_cli.index import index_app
from grace_cli.map import map_entry
from grace_cli.models import models_command
from grace_cli.options import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    Geometry,
    Json,
    Limit,
    MaxNewTokens,
    MaxPromptTokens,
    Model,
    Models,
    NoCache,
    Seed,
    Temperature,
    Template,
    Where,
)
from grace_cli.serve import serve_command
from grace_core.console import bar, show, tell
from grace_core.errors import GraceError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="GRACE Explorer.")
eval_app = typer.Typer(no_args_is_help=True, help="Evaluate models.")
demo_app = typer.Typer(no_args_is_help=True, help="Make again everything that ships.")
app.add_typer(index_app, name="index")
app.add_typer(eval_app, name="eval")
app.add_typer(demo_app, name="demo")
app.add_typer(bench_app, name="bench")
app.command("app")(app_command)


def load(name: str, *, no_cache: bool = False, device: str | None = None, dtype: str | None = None, **settings):
    """A model with the user's cache; settings that were not given keep the model's own."""
    from grace_core.cache import RepresentationCache
    from grace_core.model import GraceModel

    given = {key: value for key, value in settings.items() if value is not None}
    cache = None if no_cache else RepresentationCache()
    return GraceModel.from_pretrained(name, device=device, dtype=dtype, cache=cache, **given)


@index_app.command("build")
def index_build(
    corpus: Annotated[str, typer.Argument(help="BEIR folder, JSONL, CSV, TSV, Parquet, text file, or a Hugging Face dataset id.")],
    out: Annotated[Path, typer.Option("--out", help="The collection's folder, e.g. indexes/mine.")],
    model: Models,
    limit: Limit = None,
    rationale: Annotated[bool, typer.Option(help="Without: embed the texts alone.")] = True,
    batch_size: BatchSize = 64,
    max_new_tokens: MaxNewTokens = None,
    max_prompt_tokens: MaxPromptTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    no_cache: NoCache = False,
    id_column: Annotated[str | None, typer.Option(help="The column of ids, if it is not found by its name.")] = None,
    title_column: Annotated[str | None, typer.Option(help="The column of titles.")] = None,
    text_column: Annotated[str | None, typer.Option(help="The column of texts.")] = None,
    faiss: Annotated[str | None, typer.Option(help="flat (exact; the default), hnsw (fast) or ivfpq (small); docs/scale.md.")] = None,
    geometry: Geometry = None,
    name: Annotated[str | None, typer.Option(help="The model's folder in the collection, if not the last part of its id.")] = None,
    engine: Annotated[str, typer.Option(help="transformers, vllm, or ray (ray:vllm): Ray workers, one model each.")] = "transformers",
    workers: Annotated[int, typer.Option(min=1, help="How many, with --engine ray.")] = 2,
    as_json: Json = False,
) -> None:
    """Encode a corpus with one or more models. Run again after an interruption, it goes on where it stopped."""
    from grace_cli.index_build import build_command
    from grace_core.chat_templates import parse_arguments

    arguments = parse_arguments(template)

    def loader(name: str, chosen: str):
        return load(
            name, engine=chosen, device=device, dtype=dtype, no_cache=no_cache, max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens, temperature=temperature, seed=seed, template=arguments,
        )  # fmt: skip

    result, text = build_command(
        corpus, out, model, load=loader, bar=bar, limit=limit, columns={"id": id_column, "title": title_column, "text": text_column},
        rationale=rationale, batch_size=batch_size, faiss=faiss, geometry=geometry, name=name, engine=engine, workers=workers,
        device=device, dtype=dtype,
    )  # fmt: skip
    show(result, as_json, text)


@app.command("search")
def search(
    folder: Path,
    query: str,
    model: Model,
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    where: Where = None,
    rationale: Annotated[bool, typer.Option(help="Without: compare the texts alone.")] = True,
    input_type: Annotated[str, typer.Option(help="query, or document: to search with a text as if it stood in the collection.")] = "query",
    device: Device = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Search a collection with a query; the model writes a rationale for it first."""
    from grace_cli.search import search_command

    hits, text, notes = search_command(
        folder, query, model, k=k, where=where, rationale=rationale, input_type=input_type, device=device, engine=engine
    )  # fmt: skip
    lines = [f"note: {note}" for note in notes]
    for line in lines if as_json else []:  # a list of hits has no place for them
        tell(line)
    show(hits, as_json, "\n".join([text, *lines]))


@app.command("explain")
def explain(
    folder: Path,
    query: str,
    document: Annotated[str, typer.Argument(metavar="DOC_ID", help="A document's id, as `grace search` prints it.")],
    model: Model,
    text_only: Annotated[bool, typer.Option("--text-only", help="Explain the score of the texts alone.")] = False,
    versus: Annotated[str | None, typer.Option(help="Another document's id: why does DOC_ID stand above it?")] = None,
    against: Annotated[str | None, typer.Option(help="Another model with an index: what do the two see differently?")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Add what every token contributes.")] = False,
    leave_one_out: Annotated[bool, typer.Option("--leave-one-out", help="Encode again without each sentence in turn.")] = False,
    with_rationale: Annotated[str | None, typer.Option(help="What if DOC_ID had this rationale? Empty for none.")] = None,
    with_rationale_of: Annotated[str | None, typer.Option(help="What if it had that document's rationale?")] = None,
    with_text: Annotated[str | None, typer.Option(help="What if it had this text?")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Why does a document have its score? Parts that add up to it, and what-ifs that test them (docs/explain.md)."""
    from grace_cli.explain import explain_command

    result, text = explain_command(
        folder, query, document, model, text_only=text_only, versus=versus, against=against, tokens=tokens, leave_one_out=leave_one_out,
        with_rationale=with_rationale, with_rationale_of=with_rationale_of, with_text=with_text, device=device,
    )  # fmt: skip
    show(result, as_json, text)


@app.command("encode")
def encode(
    file: Annotated[str, typer.Argument(help="A corpus, as for `index build`.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="A Parquet file to write.")],
    limit: Limit = None,
    rationale: Annotated[bool, typer.Option(help="Without: embed the texts alone.")] = True,
    batch_size: BatchSize = 64,
    max_new_tokens: MaxNewTokens = None,
    max_prompt_tokens: MaxPromptTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    template: Template = None,
    device: Device = None,
    engine: Engine = None,
    dtype: Dtype = None,
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """Write ids, rationales and embeddings of a corpus to a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from grace_core.chat_templates import parse_arguments
    from grace_core.files import write_atomically
    from grace_core.pooling import Pooling
    from grace_core.readers import read_corpus
    from grace_core.truncation import cut_texts, notes_on_cut_texts

    arguments = parse_arguments(template)
    if out.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".npy", ".npz", ".safetensors"):
        raise GraceError(f"--out {out}: a Parquet file is written; give a name that ends in .parquet")
    if not out.parent.is_dir():
        raise GraceError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    corpus = read_corpus(file, limit=limit)
    for note in corpus.notes:
        tell(f"note: {note}")
    documents = [document for document in corpus.documents if document.content]
    left_out = [document.id for document in corpus.documents if not document.content]
    if not documents:
        raise GraceError(f"none of the {len(left_out)} documents of {file} has any text; nothing to encode: choose another corpus")
    loaded = load(
        model, device=device, engine=engine, dtype=dtype, no_cache=no_cache, max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens, temperature=temperature, seed=seed, template=arguments,
    )  # fmt: skip
    progress, close = bar(loaded.name)
    try:
        made = loaded.represent([d.content for d in documents], rationale=rationale, batch_size=batch_size, progress=progress)
    finally:
        close()
    vectors = made.embeddings(Pooling.FULL if rationale else Pooling.TEXT)
    table = pa.table({
        "_id": [d.id for d in documents], "rationale": made.rationales, "truncated": made.truncated,
        "text_truncated": made.text_truncated,
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
    })  # fmt: skip
    write_atomically(out, lambda path: pq.write_table(table, path, compression="zstd"))
    cut = int(made.text_truncated.sum())
    notes = notes_on_cut_texts(cut, len(documents), loaded.settings, positions=loaded.positions)
    result = {
        "out": str(out), "documents": len(documents), "empty": len(left_out), "dim": int(vectors.shape[1]),
        "truncated_rationales": int(made.truncated.sum()), "truncated_texts": cut, "left_out": left_out, "notes": corpus.notes + notes,
    }  # fmt: skip
    ids = f": {', '.join(left_out[:5])}{', …' if len(left_out) > 5 else ''}" if left_out else ""
    lines = [
        f"{out}: {len(documents)} embeddings of {result['dim']} dimensions; {len(left_out)} without any text left out{ids}; "
        f"{result['truncated_rationales']} rationales cut off, {cut_texts(cut)}",
        *(f"note: {note}" for note in notes),
    ]
    show(result, as_json, "\n".join(lines))


@app.command("train")
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as one of configs/.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value over the file's, e.g. data.limit=100.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model as a configuration says; the best one by held-out nDCG@10 lies in OUT/best."""
    from grace_cli.train import train_command

    result, text = train_command(config, overrides or [], resume=resume)
    show(result, as_json, text)


app.command("map")(map_entry)
app.command("serve")(serve_command)
app.command("models")(models_command)
eval_app.command("mteb")(mteb_command)
eval_app.command("geometry")(geometry_command)
eval_app.command("headroom")(headroom_command)
eval_app.command("retention")(retention_command)


@eval_app.command("retrieval")
def eval_retrieval(
    dataset: Annotated[Path, typer.Argument(help="A collection folder with queries and judgements, with an index of each model.")],
    model: Models,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. test.")] = None,
    where: Where = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add the lexical baseline.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Keep it beside each index, for the explorer's Evaluate tab.")] = False,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """nDCG@10, Recall@10 and MRR@10 with 95 % intervals; each model with its rationale and, as "MODEL:text", without.

    ``--temperature`` samples the queries' rationales; the documents' are those of the index.
    """
    from grace_core.evaluation.report import retrieval_command

    result, text = retrieval_command(
        dataset, model, split=split, where=where, bm25=bm25, save=save, device=device, engine=engine, temperature=temperature, seed=seed
    )
    show(result, as_json, text)


@eval_app.command("faithfulness")
def eval_faithfulness(
    folder: Annotated[Path, typer.Argument(help="A collection with queries and judgements, and an index of each model.")],
    model: Models,
    split: Annotated[str | None, typer.Option(help="Queries of this split only, e.g. test.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="At most so many of the queries, chosen at random.")] = 200,
    documents: Annotated[int, typer.Option(min=1, help="Rank at most so many documents: the relevant ones and others at random.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of queries, for swaps and random orders.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does a model depend on its rationales, and do explanations say on which sentences? Swaps, deletes and encodes again."""
    from grace_core.evaluation.report import faithfulness_command

    result, text = faithfulness_command(
        folder, model, split=split, queries=queries, documents=documents, seed=seed, device=device, report=tell
    )
    show(result, as_json, text)


@demo_app.command("corpus")
def demo_corpus(
    out: Annotated[Path | None, typer.Option(help="Default: the place of the shipped corpus.")] = None, as_json: Json = False
) -> None:
    """Write the demo corpus from the fact base."""
    from grace_core.sources import DEMO_CORPUS_DIR
    from grace_study.corpus import write

    folder = out or DEMO_CORPUS_DIR
    counts = write(folder)
    show({"folder": str(folder), **counts}, as_json, f"{counts['documents']} passages, {counts['queries']} queries in {folder}")


@demo_app.command("pretrain")
def demo_pretrain(
    work: Annotated[Path, typer.Option(help="Checkpoints and log; a killed run goes on from here.")] = Path("runs/demo-base"),
    out: Annotated[Path | None, typer.Option(help="Default: the place of the shipped model.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on, for a shorter run.")] = None,
    as_json: Json = False,
) -> None:
    """Pretrain demo-base from the fact base: a good hour on two cores."""
    from grace_core.sources import DEMO_MODELS_DIR
    from grace_study.pretrain import PretrainConfig, pretrain

    config = PretrainConfig() if tokens is None else PretrainConfig(tokens=tokens, habit_tokens=tokens // 20)
    out = out or DEMO_MODELS_DIR / "demo-base"
    pretrain(out, work, config, report=tell)
    show({"out": str(out), "tokens": config.all_tokens}, as_json, str(out))


@demo_app.command("train")
def demo_train(
    names: Annotated[list[str] | None, typer.Argument(help="demo-cl, demo-grace, demo-grace-unsup; default all.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs are kept; a killed one goes on from here.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train the demo models that ship from demo-base, under an hour each on two cores."""
    from grace_study.ship import SHIPPED, train_shipped

    if unknown := set(names or ()) - set(SHIPPED):
        raise GraceError(f"no recipe for {', '.join(sorted(unknown))}; there are {', '.join(SHIPPED)}")
    made = {name: train_shipped(name, runs=runs, report=tell) for name in names or SHIPPED}
    lines = [f"{name}: {row['state']}, best held-out nDCG@10 {row['best']['ndcg@10']:.4f}" for name, row in made.items()]
    show(made, as_json, "\n".join(lines))


@demo_app.command("study")
def demo_study(
    way: Annotated[list[str] | None, typer.Option("--way", help="A way to train, e.g. symmetric; repeatable; default all.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable; default 0, 1, 2.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/study"),
    keep: Annotated[Path, typer.Option(help="Where results are kept; what is there is not done again.")] = Path("docs/study"),
    table: Annotated[bool, typer.Option("--table", help="Train nothing; only print the tables of what is kept.")] = False,
    into: Annotated[Path | None, typer.Option(help="A Markdown file whose tables are brought up to date.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the training curves of the named ways, an SVG or PNG.")] = None,
    trade_off: Annotated[Path | None, typer.Option(help="Draw gains against losses of joint ways, an SVG or PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Train and measure ways to train, with seeds, and print the tables. Can be stopped and gone on with; runs may share a machine."""
    from grace_study import figures, report, tables
    from grace_study.study import WAYS, one

    if unknown := set(way or ()) - set(WAYS):
        raise GraceError(f"there is no way {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    if not table:
        for number in seed or (0, 1, 2):
            for name in way or WAYS:
                one(name, number, runs, keep=keep, report=tell)
    if figure:
        figures.training_curves(keep, way or ("reference", "symmetric", "joint"), figure)
    made = report.table(keep)
    if into:
        tables.fill(into, made)
    if trade_off:
        figures.trade_off(made["trade_off"], trade_off)
    show(made, as_json, tables.markdown(made))


@demo_app.command("index")
def demo_index(out: Annotated[Path, typer.Option(help="The collection's folder.")] = Path("indexes/demo"), as_json: Json = False) -> None:
    """Build the demo collection with the demo models, again where a model has other weights than its index."""
    from grace_study.ship import build_collection

    made = build_collection(out, report=tell)
    built = {name: index.manifest["counts"] | {"seconds": index.manifest["seconds"]} for name, index in made.items()}
    lines = [f"{name}: {count['encoded']} documents, {count['truncated_rationales']} rationales cut off" for name, count in built.items()]
    show({"collection": str(out), "models": built}, as_json, "\n".join(lines))


@demo_app.command("check")
def demo_check(
    model: Model = "demo-base",
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    temperature: Annotated[float, typer.Option(min=0, max=10, help="0 is greedy.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Judge a demo model's rationales by the fact base: well formed, the right kind, the right thing, true."""
    from grace_study.check import check

    result = check(load(model), split=split, temperature=temperature, progress=True)
    lines = [f"{name:12s} {result[name]:.3f} [{low:.3f}, {high:.3f}]" for name, (low, high) in result["ci95"].items()]
    show(result, as_json, "\n".join([f"{result['queries']} queries, split {split}", *lines]))


@demo_app.command("all")
def demo_all(as_json: Json = False) -> None:
    """Corpus, pretraining, training and index, one after the other; prints what `demo index` prints."""
    from grace_core.sources import DEMO_MODELS_DIR
    from grace_study.corpus import write
    from grace_study.pretrain import pretrain
    from grace_study.ship import SHIPPED, train_shipped

    write()
    pretrain(DEMO_MODELS_DIR / "demo-base", Path("runs/demo-base"), report=tell)
    for name in SHIPPED:
        train_shipped(name, runs=Path("runs"), report=tell)
    demo_index(as_json=as_json)


def main() -> None:
    """Run the command; what a user must read comes as one line, with exit status 2."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except GraceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        told = f"{str(error.filename)[:300]}: {error.strerror}" if error.filename else str(error)
        print(f"error: {told}; check the path, its permissions and the room on the disk".replace("\n", " "), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept", file=sys.stderr)
        sys.exit(130)

