"""The training loop: batches, steps, stopping, calibration."""
