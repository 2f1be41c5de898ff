"""What can rank the documents of a collection: a model with or without its rationale, BM25, a sentence
encoder, a fusion of these.

``names``       what each is called, in links, on the command line and in the API
``bm25``        BM25 itself, ``encoder`` a sentence-transformers model, ``encoded`` its vectors in a collection
``ledger``      a score as a sum of parts, each opened further
``column``      one way to search, explain and edit, and the columns of a single kind; ``fusion`` those of several
``documents``   why a document has its score, also one that is split into passages
``opened``      the columns of a collection by their names
"""
