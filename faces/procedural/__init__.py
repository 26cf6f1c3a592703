"""Drawn faces: the same bytes for a seed on every machine."""
