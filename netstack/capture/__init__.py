"""What a capture holds, whatever the engine would make of it: counts, DNS, server names, conversations, streams."""
