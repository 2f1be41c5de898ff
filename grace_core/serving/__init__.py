"""A GRACE model over HTTP: OpenAI's embeddings and chat, search over a collection, reranking."""
