"""What every process needs: settings from the environment, AWS clients, logs and metrics."""
