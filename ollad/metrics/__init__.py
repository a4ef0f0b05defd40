"""What ollad counts and measures, and how Prometheus gets to see it."""

from ollad.metrics.exposure import exposed
from ollad.metrics.series import PageHistograms
from ollad.metrics.telemetry import SERVED, Telemetry

__all__ = ["SERVED", "PageHistograms", "Telemetry", "exposed"]
