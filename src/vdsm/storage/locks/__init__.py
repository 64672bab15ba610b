"""What keeps hosts apart: sanlock, a file lock, and one in memory."""
