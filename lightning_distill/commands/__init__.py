"""Subcommands beside LightningCLI's own, one a module with a `main(argv)`."""
