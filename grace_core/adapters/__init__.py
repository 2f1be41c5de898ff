"""A GRACE model in the shape that other libraries expect: sentence-transformers', LangChain's, MTEB's."""
