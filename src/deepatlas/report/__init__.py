"""One static HTML page about a run: curves, examples, deformations, tables, versions."""
