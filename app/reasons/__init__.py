"""The Reasons tab: what the rationales of a collection say, taken together, and every score split by it."""
