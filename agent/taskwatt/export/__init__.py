"""Everything that speaks OpenTelemetry; no other package imports it."""
