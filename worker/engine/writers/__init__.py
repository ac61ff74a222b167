"""Programs as files of other tools: one writer for each format that can say what was pruned."""
