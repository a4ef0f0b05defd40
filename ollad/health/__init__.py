"""The control plane: probes of every backend, and the verdict on each."""
