"""Retrieval: passages of files, found by vectors and by words, and answered from."""
