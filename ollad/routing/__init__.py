"""The pure choice of a backend: what it weighs, and who is picked."""
