"""Moving pictures: what a file is by its bytes, frames of videos (PyAV) and of animations (Pillow), whether a file is whole."""
