"""Configuration: one YAML file, checked whole, turned into frozen values."""
