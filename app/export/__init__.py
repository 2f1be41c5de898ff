"""What is on the screen as a file."""
