"""Small collections beside those of the explorer's world: five documents, Chinese ones, and none with judgements."""

from __future__ import annotations

CHINESE = (
    "河流从山间流过。两岸长满了树木。",
    "水银是一种液态的金属。它很重。",
    "歌剧在城里演出。人们都来听。",
    "大象是陆地上最大的动物。它吃草。",
    "冬天下雪。湖面结冰。",
    "老桥下有一条船。船夫在唱歌。",
)


def make_small(world, sentences: list[str]) -> None:
    """``indexes/five`` (five documents), ``indexes/chinese``, both of tiny-a with rationales and without judgements, and
    ``indexes/unjudged``, which has tiny-b, too.
    """
    from grace_core.collection import Collection
    from grace_core.index import build
    from grace_core.model import GraceModel
    from grace_core.readers import Corpus, Document

    texts = {"five": sentences[:5], "chinese": CHINESE, "unjudged": sentences[20:32]}
    models = {
        name: GraceModel.from_pretrained(world.root / "models" / name, device="cpu") for name in ("tiny-a", "tiny-b")
    }
    for name, own in texts.items():
        documents = [Document(f"{name}-{i}", "", text, {}) for i, text in enumerate(own)]
        collection = Collection.create(Corpus(documents, None, "made here", []), world.indexes / name)
        for model in ("tiny-a", "tiny-b") if name == "unjudged" else ("tiny-a",):
            build(collection, models[model])
