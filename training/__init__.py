"""What every training run needs, whichever network it trains: checkpoints, folders, locks, processes, telemetry."""
