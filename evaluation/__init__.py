"""Measuring detectors and generators: these functions return results and print or draw nothing."""
