"""Infrastructure of every call: options, progress, timing, devices, files and versions."""
