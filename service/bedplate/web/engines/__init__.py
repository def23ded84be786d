"""The engines as a front end sees them: who serves what, and who is asked."""
