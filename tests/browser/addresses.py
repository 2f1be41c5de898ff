"""What stands in the address of the page, which is written a moment after what it tells is shown."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import TimeoutError as TooLate

FITS = """([wanted, absent]) => {
  const there = new URLSearchParams(location.search);
  return absent.every((key) => !there.has(key)) &&
    Object.entries(wanted).every(([key, value]) => value === null ? there.get(key) : there.get(key) === value);
}"""


def address(page) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).query).items()}


def expect_address(page, *absent: str, **wanted: str | None) -> dict[str, str]:
    """The address, once it has the parameters ``wanted`` (None for any value) and none of ``absent``."""
    try:
        page.wait_for_function(FITS, arg=[wanted, list(absent)])
    except TooLate:
        raise AssertionError(f"the address is {address(page)}, expected {wanted}, without {absent}") from None
    return address(page)
