"""Recipes, stages and tasks, and the loop: step, log, validate, checkpoint, resume."""
