"""HTTP/1.1 as pure functions: bytes and values in, values and bytes out (I18)."""
