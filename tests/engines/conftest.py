"""vLLM on the processor, in this process.

These tests run where vLLM is installed (`make test-vllm`), and are skipped elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

# so little room that long prompts are cut into pieces, and requests are preempted and resumed: the hard case
# for the sums
TIGHT = {
    "enable_chunked_prefill": True,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 24,
    "num_gpu_blocks_override": 72,
}


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if "tests/engines/" in item.path.as_posix():
                item.add_marker(
                    pytest.mark.skip(reason="vLLM is not installed; `make test-vllm` makes an environment with it")
                )


@pytest.fixture(scope="session")
def passages() -> list[str]:
    """50 passages of the demo world, spread over it."""
    from grace_study.corpus import beir

    texts = [f"{row['title']}\n{row['text']}" for row in beir()[0]]
    return texts[:: len(texts) // 50][:50]


@pytest.fixture(scope="session")
def tight() -> dict:
    """The arguments of ``in_vllm``."""
    return TIGHT


@pytest.fixture(scope="session")
def in_vllm():
    """demo-base in vLLM, with little room."""
    from grace_core.model import GraceModel

    os.environ["GRACE_VLLM_ARGS"] = json.dumps(TIGHT)
    made = GraceModel.from_pretrained("demo-base", engine="vllm", dtype="float32")
    del os.environ["GRACE_VLLM_ARGS"]
    yield made
    made.close()


@pytest.fixture(scope="session")
def written(in_vllm, passages):
    """What vLLM makes of the passages, and how often it preempted a request on the way."""
    scheduler, preempted = in_vllm.engine._engine.engine_core.engine_core.scheduler, []
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda request, *rest, **named: (
        preempted.append(request),
        preempt(request, *rest, **named),
    )[1]
    made = in_vllm.represent(passages)
    scheduler._preempt_request = preempt
    return made, len(preempted)
