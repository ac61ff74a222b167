"""What is remembered: tables, repositories and blobs."""
