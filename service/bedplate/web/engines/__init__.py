"""The engines as a front end sees them: what each serves, and which one gets a request."""
