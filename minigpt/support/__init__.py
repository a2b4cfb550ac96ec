"""Support: what every other room may use: errors, files, signals, locks and pictures."""
