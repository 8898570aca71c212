"""What every room stands on: errors, files, arguments, blocks that are undone, progress, processes. No models."""
