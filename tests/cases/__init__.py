"""Small awkward inputs, folder by folder, and whether what comes of each is right.

    python -m tests.cases [--cases ../shared/cases] [NAME …]

Every folder has a README that says what is right; here that is checked, with the commands that it names, in
this process and with demo-base. One line an input, ``right`` or ``wrong``; exit status 1 if any is wrong.
tests/test_cases.py runs the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import corpora, models, services
from .runner import CASES, Case, reason, variable

CHECKS = {
    "beir": corpora.beir,
    "cache-is-folder": models.cache_is_folder,
    "chat-templates": models.chat_templates,
    "csv-excel": corpora.csv_excel,
    "dtype-mismatch": models.dtype_mismatch,
    "dups": models.dups,
    "folder-files": corpora.folder_files,
    "incremental": corpora.incremental,
    "jsonl": corpora.jsonl,
    "long-text": models.long_text,
    "metadata-filter": corpora.metadata_filter,
    "models-formats": models.models_formats,
    "pandas-series": models.pandas_series,
    "parquet-nested": corpora.parquet_nested,
    "pdf": corpora.pdf,
    "proxy-prefix": services.proxy_prefix,
    "server-embeddings": services.server_embeddings,
    "tiny": corpora.tiny,
    "unicode": services.unicode,
}


def names(cases: Path = CASES) -> list[str]:
    """The folders that are there."""
    return sorted(path.name for path in cases.iterdir() if path.is_dir()) if cases.is_dir() else []


def verdicts(name: str, cases: Path = CASES) -> list[tuple[str, bool, str]]:
    """Of every input of a folder its name, whether it is right, and a line that says why."""
    if name not in CHECKS:
        return [(name, False, "there is no check for this folder")]
    with (
        tempfile.TemporaryDirectory(prefix="grace-cases-") as work,
        variable("GRACE_CACHE", f"{work}/cache/cache.sqlite"),
    ):
        case = Case(cases / name, Path(work))
        try:
            CHECKS[name](case)
        except Exception as error:  # between two inputs
            case.verdicts.append(("the folder as a whole", False, reason(error)))
    return case.verdicts
