"""Moving pictures: what a file is by its bytes, frames of videos and animations, whether a file is whole."""
