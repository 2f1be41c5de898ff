"""``grace mend …``: what its commands do; each returns its result, and the same as text."""

from __future__ import annotations

from pathlib import Path

from grace_core import mends
from grace_core.cache import RepresentationCache
from grace_core.errors import GraceError
from grace_core.index import GraceIndex
from grace_core.mend_export import read_export, write_export
from grace_core.mend_layer import Content, Layer
from grace_core.mending import Attempt, Failure, Mender, Replay, automatic
from grace_core.mends import Change
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE

SHOWN = 10  # queries, or failing ones, on a page
WIDTH = 100  # characters of a text on a line


def _open(folder: Path, model: str, device: str | None, *, keep: bool = False) -> tuple[GraceIndex, GraceModel]:
    """The index and its model. With ``keep`` what could not be kept is refused at once, not after all was replayed."""
    index = GraceIndex.of_model(folder, model)
    if keep:
        mends.check_keepable(index)
    return index, index.load_model(device=device, cache=RepresentationCache())


def why_command(
    folder: Path, model: str, *, query: str, split: str | None, queries: int | None, device: str | None
) -> tuple[dict, str]:
    mender = Mender(*_open(folder, model, device), split=split, most=queries)
    failure = mender.diagnose(mender.number(query))
    if failure is None:
        relevant = any(document in mender.index.row for document, grade in mender.qrels[query].items() if grade > 0)
        reason = (
            "all of its relevant documents stand first"
            if relevant
            else "the index holds none of its relevant documents"
        )
        return {"query": query, "failing": False, "reason": reason}, f"{query}: {reason}; there is nothing to mend"
    pair = mender.sentence_pair(failure)
    return {"failing": True, **failure.as_dict(), "pair": pair}, "\n".join(_failure_lines(failure, pair))


def _failure_lines(failure: Failure, pair: dict) -> list[str]:
    blocks = sorted(failure.blocks.items(), key=lambda item: -abs(item[1]))
    place = "first is" if failure.wrong_rank == 1 else f"at rank {failure.wrong_rank} is, not relevant,"
    lines = [
        f"{failure.query}  {_short(failure.text)}",
        f"{place} {failure.wrong!r}; the first relevant one {'is' if failure.wrong_rank == 1 else 'below is'} {failure.right!r}, "
        f"at rank {failure.right_rank}",
        f"the pair that puts it there: {pair['query_part']} {_short(pair['query'])!r}",
        f"  × {pair['document_part']} {_short(pair['document'])!r}: {pair['above_corpus']:+.4f} above the average document",
        f"score {failure.wrong} less {failure.right}: {failure.difference:+.6f}",
        *(f"  {value:+.4f}  {name}" for name, value in blocks),
        "causes:" if failure.causes else "none of the causes applies",
    ]
    for cause in failure.causes:
        lines += [
            f"  {cause.name}{f' ({cause.document})' if cause.document else ''}: {cause.why}",
            f"    {cause.suggestion}",
        ]
    return lines


def failing_command(
    folder: Path, model: str, *, split: str | None, queries: int | None, device: str | None
) -> tuple[dict, str]:
    mender = Mender(*_open(folder, model, device), split=split, most=queries)
    failing, value = [mender.queries[i] for i in mender.failing()], float(mender.ndcg().mean())
    result = {"queries": len(mender.queries), "ndcg@10": value, "failing": failing}
    lines = [
        f"{len(mender.queries)} judged queries, nDCG@10 {value:.4f}; of {len(failing)} no relevant document stands first:"
    ]
    lines += [f"  {query}  {_short(mender.texts[query])}" for query in failing[:SHOWN]]
    lines += [f"  … and {len(failing) - SHOWN} more; --json lists all"] if len(failing) > SHOWN else []
    return result, "\n".join(lines)


def try_command(
    folder: Path,
    document: str,
    model: str,
    *,
    split: str | None,
    queries: int | None,
    rationale: str | None,
    remove: bool,
    seed: int | None,
    system: str | None,
    temperature: float | None,
    device: str | None,
    keep: bool = False,
    note: str = "",
) -> tuple[dict, str]:
    """Replay a mend, and with ``keep`` make it part of the index; of a collection without judgements it can
    be kept, not tried.
    """
    again = seed is not None or system is not None
    if (rationale is not None) + remove + again != 1:
        raise GraceError(
            "say how the rationale is to change: one of --rationale TEXT, --remove, or --seed and --system"
        )
    if temperature is not None and not again:
        raise GraceError(
            "--temperature is of a rationale that the model writes again: give --seed or --system, or leave it out"
        )
    index, loaded = _open(folder, model, device, keep=keep)
    if document not in index.row:
        raise GraceError(f"{index.folder} holds no document {document[:80]!r}; {index.collection.unknown(document)}")
    mender = Mender(
        index, loaded, split=split, most=queries, judged=index.collection.judgements is not None or not keep
    )
    row = index.row[document]
    kind = "regenerate" if again else "edit" if rationale and rationale.strip() else "remove"
    old = mender.content(row)
    if again:
        new = mender.regenerated(row, seed=seed, system=system, temperature=temperature)
    else:
        new = mender.with_rationale(row, rationale or "")
    result = {"document": document, "model": index.model_name, "kind": kind, "old": _side(old), "new": _side(new)}
    result["changed"] = not new.equals(old)
    lines = [f"{document}: {_side_line(old)}", f"  -> {_side_line(new)}"]
    if not result["changed"]:
        lines.append("that is the rationale that it has; nothing changes")
    elif mender.queries:
        replayed = mender.replay(row, new)
        result["replay"] = replayed.as_dict()
        lines += _replay_lines(replayed)
    if keep:
        kept = mends.keep(index, [Change(document, kind, new, note)])[0]
        result["mend"] = kept.as_dict()
        lines.append(
            f"kept as {kept.id}; `grace mend revert {folder} {kept.id} --model {index.model_name}` takes it back"
        )
    return result, "\n".join(lines)


def _side(content: Content) -> dict:
    return {"rationale": content.rationale, "tokens": int(content.counts[RATIONALE]), "truncated": content.truncated}


def _side_line(content: Content) -> str:
    return f"{_short(content.rationale)!r}, {content.counts[RATIONALE]} tokens" if content.ids else "no rationale"


def _replay_lines(replayed: Replay) -> list[str]:
    result = replayed.as_dict()
    lines = [_net_line("all judged queries", result), f"{len(result['wins'])} win, {len(result['losses'])} lose"]
    for name in ("wins", "losses"):
        lines += [
            f"  {one['query']}: {one['before']:.3f} -> {one['after']:.3f}, document at rank {one['rank_before']} -> {one['rank_after']}"
            for one in result[name][:SHOWN]
        ]
        lines += [f"  … and {len(result[name]) - SHOWN} more"] if len(result[name]) > SHOWN else []
    return lines


def _net_line(name: str, net: dict) -> str:
    low, high = net["ci95"]
    text = f"nDCG@10 {net['before']:.4f} -> {net['after']:.4f}, change {net['change']:+.5f} (95 % interval {low:+.5f} to {high:+.5f})"
    return f"{name} ({net['queries']}): {text}"


def list_command(folder: Path, model: str) -> tuple[dict, str]:
    index = GraceIndex.of_model(folder, model)
    layer = Layer.load(index.folder)
    result = {"model": index.model_name, **mends.check(index), "mends": [mend.as_dict() for mend in layer.mends]}
    lines = []
    for mend in layer.mends:
        state = "in force" if mend.state == "kept" else f"{mend.state} {mend.ended[:10]}: {mend.reason}"
        note = f"  {_short(mend.note)}" if mend.note else ""
        lines.append(f"{mend.id}  {mend.time[:16]}  {mend.kind} of {mend.document} ({state}){note}")
        lines.append(f"    {_side_line(mend.old)} -> {_side_line(mend.new)}")
    return result, "\n".join([*lines, *([f"warning: {result['error']}"] if result["error"] else [])]) or "no mends"


def revert_command(folder: Path, mend_id: str, model: str) -> tuple[dict, str]:
    index = GraceIndex.of_model(folder, model)
    mend = mends.revert(index, mend_id)
    return mend.as_dict(), f"{mend.id} reverted: {mend.document} has again {_side_line(mend.old)}"


def export_command(folder: Path, file: Path, model: str) -> tuple[dict, str]:
    number = write_export(GraceIndex.of_model(folder, model), file)
    return {"file": str(file), "mends": number}, f"{number} mends written to {file}"


def import_command(folder: Path, file: Path, model: str, *, anew: bool, device: str | None) -> tuple[dict, str]:
    index, loaded = _open(folder, model, device, keep=True)
    read = read_export(index, file, loaded, anew=anew)
    kept = mends.keep(index, read.changes) if read.changes else []
    result = {"kept": [mend.as_dict() for mend in kept], "encoded": read.encoded, "left_out": read.left_out}
    lines = [f"{len(kept)} mends kept, {read.encoded} of them encoded here; {len(read.left_out)} left out"]
    return result, "\n".join([*lines, *(f"  {line}" for line in read.left_out)])


def auto_command(
    folder: Path,
    model: str,
    *,
    split: str | None,
    failing: int,
    guard: bool,
    keep_them: bool,
    seed: int,
    device: str | None,
    progress,
) -> tuple[dict, str]:
    mender = Mender(*_open(folder, model, device, keep=keep_them), split=split)
    run = automatic(mender, failing=failing, guard=guard, seed=seed, progress=progress)
    result = {"model": mender.index.model_name, "split": split, "guard": guard, **run.as_dict()}
    lines = [_attempt_line(attempt) for attempt in run.attempts]
    lines.append(
        f"guard {'on' if guard else 'off'}: "
        + ", ".join(f"{number} {outcome}" for outcome, number in result["outcomes"].items())
    )
    for name, words in (
        ("all", "all judged queries"),
        ("failing", "those that it was given"),
        ("others", "all others"),
    ):
        lines += [_net_line(words, result[name])] if result[name] else []
    if keep_them and run.contents:
        note = f"by rule, guard {'on' if guard else 'off'}"
        changes = [
            Change(mender.index.ids[row], kind, content, note)
            for row, (kind, content) in run.contents.items()
            if not content.equals(mends.content_of(mender.index, row))
        ]
        kept = mends.keep(mender.index, changes) if changes else []
        result["kept"] = [mend.id for mend in kept]
        lines.append(f"kept in the index: {', '.join(result['kept'])}")
    return result, "\n".join(lines)


def _attempt_line(attempt: Attempt) -> str:
    if not attempt.cause:
        return f"{attempt.query}: {attempt.outcome}"
    ranks = f"rank {attempt.rank_before} -> {attempt.rank_after}"
    change = f"{ranks}, all {attempt.change:+.5f} ({attempt.wins} win, {attempt.losses} lose)"
    return f"{attempt.query}: {attempt.cause}, {attempt.remedy} {attempt.document}: {change}: {attempt.outcome}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}…"
