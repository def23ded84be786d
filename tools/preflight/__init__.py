"""What playbooks/preflight.yml found, judged together: settings, files of the control machine, and a report."""
