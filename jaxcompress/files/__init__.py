"""Hold what all files of jaxcompress share: checksums, bounded JSON, and files whole or absent."""
