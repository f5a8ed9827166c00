"""What a run costs: memory and time on chips that are not here, by part, and with size."""
