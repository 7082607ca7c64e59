"""The command `taskwatt`. Each subcommand is a module with `configure(parser)` and `main(args) -> int`."""
