"""What the agent costs, in ratios against the plain program and against OpenTelemetry's own Celery instrumentation."""
