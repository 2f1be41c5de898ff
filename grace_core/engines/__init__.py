"""Token ids in, rationales and pooled hidden states out."""
