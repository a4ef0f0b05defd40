"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# a busy machine is no reason to fail: how long examples take says nothing about the code
settings.register_profile("ollad", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ollad")
