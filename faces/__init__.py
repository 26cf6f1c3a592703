"""Faces on disk to tensors: sources, decoding, THE preprocessing, degradations, procedural faces. Knows no network.

Import from the modules (`from faces.source import open_source`); nothing here imports torch until `faces.dataset` is asked for.
"""
