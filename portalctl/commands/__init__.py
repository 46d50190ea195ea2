"""The commands: each parses, makes a call or a few, and shows what came of it."""
