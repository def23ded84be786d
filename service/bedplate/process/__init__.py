"""What every process of the service needs: settings, log, sockets, systemd's notifications."""
