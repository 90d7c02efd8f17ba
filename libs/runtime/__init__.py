"""What every service starts with: settings, logs, the two NATS connections, health and metrics, signals and drain."""
