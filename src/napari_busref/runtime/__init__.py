"""What every long call needs: progress, cancelling, timing, devices, versions."""
