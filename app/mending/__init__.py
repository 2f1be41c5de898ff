"""Mending in the page: why a judged query fails, another rationale tried over all judged queries, kept and reverted."""
