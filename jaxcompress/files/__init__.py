"""Common parts of all files of jaxcompress: checksums, bounded JSON, and files whole or absent."""
