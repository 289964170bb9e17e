"""Trained networks at work: segmentations, transforms and scores in each scan's own space."""
