"""GRACE models behind the interfaces of other libraries: sentence-transformers, LangChain, MTEB."""
