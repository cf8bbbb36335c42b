"""The demonstrations: the workbench match, and a walk over a real log."""
