"""What every run needs whatever it trains: mesh, checkpoints, metrics, interruption."""
