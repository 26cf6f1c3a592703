"""The detector: hybrid discriminator, its calibration, and the standalone detector file."""
