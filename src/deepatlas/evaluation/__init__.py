"""How good a result is: numbers from label maps and displacements, tables of them, and tests."""
