"""Measuring generators and detectors: Inception features, Frechet distances, classification metrics with intervals."""
