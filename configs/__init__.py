"""Experiments: one file each, read by `train.py --config configs/<name>.py:<variant>`."""
