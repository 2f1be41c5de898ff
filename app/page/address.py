"""What a link to the explorer holds, tab by tab. It is declared here alone: for Python, which reads it (the module
``view`` of each tab), and for the scripts of the page, which write it (address.js).
"""

from __future__ import annotations

import json

PARAMETERS = {  # no two tabs share one with Explore, whose search stays in the address while another tab is shown
    "explore": ("collection", "a", "b", "k", "q", "where", "by", "doc", "why", "vs", "whatif"),
    "map": ("corpus", "left", "right", "colour", "point", "star", "find", "zoom"),
    "reasons": ("corpus", "model", "size", "reason", "ask", "only", "steer", "against", "judged", "queries"),
    "mend": ("corpus", "model", "judged", "queries", "query", "document"),
    "evaluate": ("on", "x", "y", "more", "split", "first", "among"),
    "training": ("run", "of", "probe", "from", "step"),
}
LONGEST = 2_000  # characters of a query in an address: servers cut off longer ones


def declarations() -> str:
    """The same for scripts."""
    return f"const PARAMETERS = {json.dumps(PARAMETERS)};\nconst LONGEST_IN_ADDRESS = {LONGEST};"
