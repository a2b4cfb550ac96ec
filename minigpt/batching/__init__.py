"""Batching: token files, and the batches that are cut from them or from conversations."""
