"""Speed against what a user would run instead.

Every figure is a ratio of medians, peers taking turns in one process.
"""
