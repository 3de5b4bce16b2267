"""What a run costs before it starts: FLOPs, memory and time, counted from the network's real shapes."""
