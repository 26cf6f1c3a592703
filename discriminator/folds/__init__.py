"""Cross-validation: a detector for every fold, judged on the images that it was kept away from."""
