"""What the openssl command prints."""


def serial_line(serial: int) -> str:
    """Return how openssl shows a serial number: in whole octets."""
    return f"Serial Number: {serial.to_bytes((serial.bit_length() + 7) // 8, 'big').hex().upper()}"
