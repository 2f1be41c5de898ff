"""Speed compared with what a user would run instead.

Every figure is a ratio of medians; the contenders take turns in one process.
"""
