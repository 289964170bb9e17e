"""From files to batches: checked, prepared on one grid, cached, drawn and augmented; phantoms."""
