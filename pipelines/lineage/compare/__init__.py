"""Two runs compared: aligned, what differs, which cause came first, and how it is said."""
