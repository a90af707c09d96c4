"""Types and seams shared by every layer; no behaviour of its own beyond small value types."""
