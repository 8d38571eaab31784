"""The adapters, one file each, and the registry that finds them (`proxy/docs/adding-a-provider.md`)."""
