"""What ollad counts and measures, and how Prometheus gets to see it."""

from ollad.metrics.exposure import exposed
from ollad.metrics.telemetry import PageHistograms, Telemetry

__all__ = ["PageHistograms", "Telemetry", "exposed"]
