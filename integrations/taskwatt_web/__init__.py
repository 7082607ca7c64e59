"""Web servers: CPU per route, of asynchronous and of synchronous handlers."""
