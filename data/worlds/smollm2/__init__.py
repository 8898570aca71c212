"""The world `smollm2`."""
