"""What the rationales of a collection say, taken together: reasons, and every score split by them."""
