"""Training by gradient: the loop, the objectives, and the checkpoints that it resumes from."""
