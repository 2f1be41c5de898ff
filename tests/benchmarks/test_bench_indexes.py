"""The benchmarks of indexes run and report what they say; what they measure is not asserted."""

from __future__ import annotations

import json

import pytest


def test_search_reports_ratios_and_recall_by_kind(grace, tmp_path):
    options = (
        "--documents",
        500,
        "--dim",
        16,
        "--kind",
        "flat",
        "--kind",
        "hnsw",
        "--runs",
        1,
        "--keep",
        tmp_path,
        "--json",
    )
    status, out, err = grace("bench", "search", *options)
    assert status == 0, err
    result = json.loads(out)
    assert result["ratios"].keys() == {"flat_batch", "flat_single", "hnsw_batch", "hnsw_single"}
    assert all(value > 0 for value in result["ratios"].values())
    assert result["kinds"]["flat"]["recall@10_of_queries"] == 1.0
    assert result["kinds"]["hnsw"]["recall@10_of_queries"] > 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic-500x16"]


def test_filter_reports_time_recall_and_whether_it_was_exact(grace):
    options = (
        "--documents",
        400,
        "--dim",
        16,
        "--kind",
        "flat",
        "--kind",
        "hnsw",
        "--share",
        0.5,
        "--share",
        0.01,
        "--runs",
        1,
        "--json",
    )
    status, out, err = grace("bench", "filter", *options)
    assert status == 0, err
    result = json.loads(out)
    assert result["ratios"].keys() == {"flat_50%", "flat_1%", "hnsw_50%", "hnsw_1%"} == result["searches"].keys()
    assert all(value > 0 for value in result["ratios"].values())
    assert [row["documents"] for row in result["searches"].values()] == [200, 4, 200, 4]
    assert all(result["searches"][name]["exact"] for name in ("flat_50%", "flat_1%", "hnsw_1%"))


@pytest.fixture
def texts(tmp_path, sentences):
    (tmp_path / "c.txt").write_text("\n".join(sentences[:20]))
    return tmp_path / "c.txt"


def test_build_reports_three_ways_against_its_peer(grace, texts):
    status, out, err = grace("bench", "build", texts, "--documents", 30, "--runs", 1, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["ratios"].keys() == {"cache", "cache_vs_same_files", "shards", "vectors"}
    assert all(value > 0 for value in result["ratios"].values())
    assert (result["documents"], result["distinct_texts"]) == (30, 20)
