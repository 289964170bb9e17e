"""Segmentation and registration networks; each works on any shape and holds no batch statistics."""
