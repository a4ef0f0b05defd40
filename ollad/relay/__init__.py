"""The data plane: one request to one backend, and its reply to the client or to the caller.

The seam is ``forward(request, backend, sink) -> Outcome``. A sink decides, synchronously, what
becomes of a reply once its head is known: hold it whole, stream it on, or drop it. The relay does
all the I/O and knows nothing of JSON, models or routing.
"""
