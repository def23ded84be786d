"""What every process of the service needs: settings, log, systemd's notifications."""
