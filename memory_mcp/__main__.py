"""`python -m memory_mcp` is the program too."""

from memory_mcp.cli.entry import main

main()
