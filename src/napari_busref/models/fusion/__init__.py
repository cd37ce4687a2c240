"""Networks and classical baselines that fuse two images."""
