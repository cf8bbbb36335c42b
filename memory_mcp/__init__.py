"""memory-mcp: an episodic memory for AI agents that learns from outcomes."""

__version__ = "0.1.0"
