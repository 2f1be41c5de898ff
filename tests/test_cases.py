"""What comes of every small awkward input in ``../shared/cases`` is right (tests/cases)."""

from __future__ import annotations

import pytest
from cases import CHECKS, names, verdicts
from cases.runner import CASES


@pytest.mark.parametrize("folder", sorted(CHECKS))
def test_every_input_of_a_folder_is_right(folder):
    if folder not in names():
        pytest.skip(f"{CASES / folder} is not here")
    judged = verdicts(folder)
    assert judged
    assert [f"{name}: {said}" for name, right, said in judged if not right] == []


def test_every_folder_has_a_check():
    if not names():
        pytest.skip(f"{CASES} is not here")
    assert set(names()) <= set(CHECKS)
