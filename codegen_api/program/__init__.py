"""The server as a program: its command line, and what it starts beside the application."""
