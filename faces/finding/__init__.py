"""Faces in a photo: found, cut out upright, handed on."""
