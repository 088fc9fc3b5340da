"""The command `primenet` and its subcommands."""
