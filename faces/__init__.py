"""Faces on disk to tensors: sources, decoding, THE preprocessing, degradations, procedural faces. Knows no network.

Import from the modules (`from faces.source import open_source`). Only `faces.dataset` imports torch.
"""
