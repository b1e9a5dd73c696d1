"""Python's side of programs that run inside the BEAM."""
