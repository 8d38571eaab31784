"""What the operator sees: logs, metrics and the flight recorder."""
