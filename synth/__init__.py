"""Sampling a trained generator: seeds to images, files with a manifest, contact sheets. Knows nothing of detectors."""
