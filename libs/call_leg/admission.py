"""Whether a call may come in, and which agent answers it. Decisions only; a core without I/O."""
