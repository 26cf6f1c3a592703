"""Everything a person meets: command-line manners, plots and reports. Knows detectors, not the training game."""
