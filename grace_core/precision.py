"""The precision that a model runs in by default."""

from __future__ import annotations

from functools import cache

DTYPES = ("float32", "bfloat16", "float16")


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AMX-BF16 or AVX512-BF16); others convert it first, which
    is slower than float32.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def default_dtype(device: str, stored: str | None = "bfloat16") -> str:
    """bfloat16 on CUDA, and on a CPU that multiplies it for weights that are ``stored`` in 16 bits; float32
    elsewhere.
    """
    if device.startswith("cuda"):
        return "bfloat16"
    return "bfloat16" if device == "cpu" and stored in ("bfloat16", "float16") and multiplies_bfloat16() else "float32"
