"""Grids, maps and their algebra: warping, composing, integrating, transforms in mm."""
