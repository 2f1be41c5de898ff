"""``grace demo …``: makes again everything that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.loading import load
from grace_cli.options import Device, Dtype, Json, MaxNewTokens, Model
from grace_core.console import show, tell
from grace_core.errors import GraceError

demo_app = typer.Typer(no_args_is_help=True, help="Make again everything that ships.")


@demo_app.command("corpus")
def demo_corpus(
    out: Annotated[Path | None, typer.Option(help="Default: the place of the shipped corpus.")] = None,
    as_json: Json = False,
) -> None:
    """Write the demo corpus from the fact base."""
    from grace_core.sources import DEMO_CORPUS_DIR
    from grace_study.corpus import write

    folder = out or DEMO_CORPUS_DIR
    counts = write(folder)
    show(
        {"folder": str(folder), **counts},
        as_json,
        f"{counts['documents']} passages, {counts['queries']} queries in {folder}",
    )


@demo_app.command("pretrain")
def demo_pretrain(
    work: Annotated[Path, typer.Option(help="Checkpoints and log; a killed run goes on from here.")] = Path(
        "runs/demo-base"
    ),
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
    names: Annotated[
        list[str] | None, typer.Argument(help="demo-cl, demo-grace, demo-grace-unsup; default all.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs are kept; a killed one goes on from here.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train the demo models that ship from demo-base, under an hour each on two cores."""
    from grace_study.ship import SHIPPED, train_shipped

    if unknown := set(names or ()) - set(SHIPPED):
        raise GraceError(f"no recipe for {', '.join(sorted(unknown))}; there are {', '.join(SHIPPED)}")
    trained = {name: train_shipped(name, runs=runs, report=tell) for name in names or SHIPPED}
    lines = [
        f"{name}: {row['state']}, best held-out nDCG@10 {row['best']['ndcg@10']:.4f}" for name, row in trained.items()
    ]
    show(trained, as_json, "\n".join(lines))


@demo_app.command("study")
def demo_study(
    way: Annotated[
        list[str] | None, typer.Option("--way", help="A way to train, e.g. symmetric; repeatable; default all.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable; default 0, 1, 2.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/study"),
    keep: Annotated[Path, typer.Option(help="Where results are kept; what is there is not done again.")] = Path(
        "docs/study"
    ),
    table: Annotated[
        bool, typer.Option("--table", help="Train nothing; only print the tables of what is kept.")
    ] = False,
    into: Annotated[Path | None, typer.Option(help="A Markdown file whose tables are brought up to date.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the training curves of the named ways, an SVG or PNG.")
    ] = None,
    trade_off: Annotated[
        Path | None, typer.Option(help="Draw gains against losses of joint ways, an SVG or PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and measure ways to train, with seeds, and print the tables.

    Can be stopped and gone on with; runs may share a machine.
    """
    from grace_study import figures, report, tables
    from grace_study.study import WAYS, make_run

    if unknown := set(way or ()) - set(WAYS):
        raise GraceError(f"there is no way {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    if not table:
        for number in seed or (0, 1, 2):
            for name in way or WAYS:
                make_run(name, number, runs, keep=keep, report=tell)
    if figure:
        figures.training_curves(keep, way or ("reference", "symmetric", "joint"), figure)
    results = report.table(keep)
    if into:
        tables.fill(into, results)
    if trade_off:
        figures.trade_off(results["trade_off"], trade_off)
    show(results, as_json, tables.markdown(results))


@demo_app.command("real")
def demo_real(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Collections: BEIR folders. Their test splits are measured on.")
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option("--way", help="NAME=MODEL, NAME=st:ENCODER, or bm25; repeatable. NAME-seed1 is a seed of NAME."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results are kept; what is there is not done again.")] = Path(
        "runs/real"
    ),
    queries: Annotated[int, typer.Option(min=2, help="Of each collection, at most this many.")] = 48,
    documents: Annotated[int, typer.Option(min=10, help="Their relevant documents, and others up to this many.")] = 160,
    trained_on: Annotated[
        list[str] | None, typer.Option(help="A collection that a way was trained on; repeatable.")
    ] = None,
    against: Annotated[str | None, typer.Option(help='What differences are from, as "WAY: COLUMN".')] = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure models on real collections, with and without rationale and BM25, and print the table of all
    that is kept.
    """
    from grace_core.columns.encoder import Encoder
    from grace_study import real

    def loaded(model: str):
        if model.startswith("st:"):
            return Encoder.load(model.removeprefix("st:"), device=device)
        return load(model, dtype=dtype, device=device, max_new_tokens=max_new_tokens)

    for given in way or ():
        name, _, model = given.partition("=")
        real.run(
            name,
            lambda model=model: loaded(model),
            data or [],
            out,
            queries=queries,
            documents=documents,
            report=tell,
        )
    pair = tuple(part.strip() for part in against.split(":", 1)) if against else None
    result = real.table(real.Measured.read(out), trained_on=trained_on or (), against=pair)
    show(result, as_json, real.markdown(result))


@demo_app.command("names")
def demo_names(
    collection: Annotated[Path, typer.Argument(help="A collection, e.g. indexes/medquad.")],
    model: Model = "smollm2",
    column: Annotated[list[str], typer.Option(help="A column of labels; repeatable.")] = ["kind", "focus"],  # noqa: B006
    size: Annotated[
        int, typer.Option(min=2, help="How many reasons, one of the sizes that `grace reasons` lists.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Whether the names of a collection's reasons stand in its documents' labels, beside names made from the texts."""
    from grace_core.index import GraceIndex
    from grace_core.reasons.collection import make_reasons
    from grace_study.reason_names import measure

    opened = GraceIndex(collection, model)
    result = measure(make_reasons(opened, opened.load_model()), column, size=size)
    lines = [f"{result['reasons']} reasons, {result['documents']} documents"]
    for way in ("names", "texts", "difference"):
        values = (
            f"{key} {row['mean']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" for key, row in result[way].items()
        )
        lines.append(f"{way:10s} {', '.join(values)}")
    show(result, as_json, "\n".join(lines))


@demo_app.command("index")
def demo_index(
    out: Annotated[Path, typer.Option(help="The collection's folder.")] = Path("indexes/demo"), as_json: Json = False
) -> None:
    """Build the demo collection with the demo models, again where a model has other weights than its index."""
    from grace_study.ship import build_collection

    indexes = build_collection(out, report=tell)
    built = {name: index.manifest["counts"] | {"seconds": index.manifest["seconds"]} for name, index in indexes.items()}
    lines = [
        f"{name}: {count['encoded']} documents, {count['truncated_rationales']} rationales cut off"
        for name, count in built.items()
    ]
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
